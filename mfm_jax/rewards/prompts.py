"""Prompts of classes: names from a file, put into a template."""

import json
import pathlib
from collections.abc import Sequence

TEMPLATE = "A high-quality, high-resolution photograph of a {}."  # of the paper's ImageNet experiments


def read_class_names(path: str | pathlib.Path) -> tuple[str, ...]:
  """Names in the order of the labels.

  Args:
    path: .txt, a name a line; .json, a list, or an object with the keys "0", "1", ..., of names or of pairs
      (synset, name) as in ImageNet's class index. Underscores become spaces.

  Raises:
    ValueError: no such file, another form, labels that are not 0, 1, ..., an empty name.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(
      f"class names must be a file, a name a line or a JSON class index "
      f"(imagenet_class_index.json for ImageNet); got {path}: no such file"
    )
  text = path.read_text(encoding="utf-8")
  names = _from_json(text, path) if path.suffix == ".json" else text.splitlines()
  names = [name.replace("_", " ").strip() if isinstance(name, str) else "" for name in names]
  if not names or not all(names):
    raise ValueError(f"{path} must hold a name for every class; got none for {_missing(names)}")
  return tuple(names)


def class_prompts(names: Sequence[str], template: str = TEMPLATE) -> tuple[str, ...]:
  """`template` with each name in the place of {}.

  Raises:
    ValueError: a template that does not hold {} once.
  """
  if template.count("{}") != 1:
    raise ValueError(f"a template must hold {{}} once, where the class is named; got {template!r}")
  return tuple(template.replace("{}", name) for name in names)


def _from_json(text: str, path: pathlib.Path) -> list:
  try:
    found = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} must hold JSON; got {error}") from None
  if isinstance(found, dict):
    labels = [str(i) for i in range(len(found))]
    if set(found) != set(labels):
      raise ValueError(f"{path} must have the labels 0 to {len(found) - 1}; got {', '.join(list(found)[:3])}")
    found = [found[label] for label in labels]
  if not isinstance(found, list):
    raise ValueError(f"{path} must hold a list or an index of names; got {type(found).__name__}")
  return [item[1] if isinstance(item, list) and len(item) == 2 else item for item in found]


def _missing(names: Sequence[str]) -> str:
  return f"label {names.index('')}" if names else "any label"
