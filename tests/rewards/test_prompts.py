"""Names of classes and the prompts that are made of them."""

import json

import pytest

from mfm_jax.rewards import prompts


def test_names_of_text_and_of_json(tmp_path):
  expected = ("great white shark", "dog")
  forms = {
    "names.txt": "great_white_shark\ndog\n",
    "list.json": json.dumps(["great_white_shark", "dog"]),
    "index.json": json.dumps({"1": ["n2", "dog"], "0": ["n1", "great_white_shark"]}),
    "flat.json": json.dumps({"0": "great white shark", "1": "dog"}),
  }
  for name, text in forms.items():
    (tmp_path / name).write_text(text)
    assert prompts.read_class_names(tmp_path / name) == expected


def test_the_index_of_imagenet(mfm_data_dir):
  names = prompts.read_class_names(mfm_data_dir / "imagenet-classes" / "imagenet_class_index.json")
  assert len(names) == 1000
  assert names[2] == "great white shark"
  expected = "A high-quality, high-resolution photograph of a great white shark."
  assert prompts.class_prompts(names)[2] == expected


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("none.txt", None, "class names must be a file, a name a line or a JSON class index"),
    ("empty.txt", "", "must hold a name for every class; got none for any label"),
    ("gap.txt", "dog\n\ncat\n", "must hold a name for every class; got none for label 1"),
    ("bad.json", "{", "must hold JSON; got Expecting"),
    ("number.json", "3", "must hold a list or an index of names; got int"),
    ("labels.json", '{"1": "dog"}', "must have the labels 0 to 0; got 1"),
    ("numbers.json", "[1, 2]", "must hold a name for every class; got none for label 0"),
  ],
)
def test_bad_names(tmp_path, name, text, message):
  if text is not None:
    (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=message):
    prompts.read_class_names(tmp_path / name)


@pytest.mark.parametrize("template", ["a dog", "{} and {}"])
def test_bad_templates(template):
  with pytest.raises(ValueError, match=r"a template must hold \{\} once"):
    prompts.class_prompts(["dog"], template)
