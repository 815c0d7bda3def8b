"""What the pages for people say that a program can check: links, commands, names, snippets of Python."""

import functools
import itertools
import pathlib
import re
import shlex

import run_case

PAGES = sorted(
  path
  for pattern in ("*.md", "docs/*.md", "launch/*.md")
  for path in run_case.ROOT.glob(pattern)
  if path.name != "api.md"
)
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name(page: pathlib.Path) -> str:
  """The page, as a test is called by it."""
  return page.relative_to(run_case.ROOT).as_posix()


@functools.cache
def snippets(page: pathlib.Path) -> list[str]:
  """Its blocks of Python, in order."""
  return [body for language, body in _FENCED.findall(page.read_text()) if language == "python"]


@functools.cache
def code(page: pathlib.Path, anything: str = "8") -> list[str]:
  """What stands in code that is not Python: blocks, their continued lines joined, and spans within the text.

  A placeholder <a|b> becomes each of its alternatives, <any other> becomes `anything`; [--flag] is a flag.
  """
  text = page.read_text()
  blocks = [body for language, body in _FENCED.findall(text) if language != "python"]
  text = _FENCED.sub("", text)
  blocks += re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
  spans = re.findall(r"`([^`]+)`", re.sub(r"^    .*$", "", text, flags=re.MULTILINE))
  lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
  lines = [re.sub(r"(^|\s)#.*", "", line) for line in lines] + [" ".join(span.split()) for span in spans]
  return [line for each in lines for line in _alternatives(re.sub(r"\[(-[^]]*)\]", r"\1", each), anything)]


def _alternatives(line: str, anything: str) -> list[str]:
  parts = re.split(r"<([^<>]*)>", line)  # every other one stood in angles
  choices = [
    part.split("|") if "|" in part and i % 2 else [anything if i % 2 else part]
    for i, part in enumerate(parts)
  ]
  return ["".join(each) for each in itertools.product(*choices)]


def commands(page: pathlib.Path) -> list[tuple[str, ...]]:
  """(name, *flags) of each `experiments.<name> --flag ...`; files that the page copies go by their source.

  Without any flag it is named in passing. --config=... stands for a configuration, ... elsewhere for a value.
  """
  lines = code(page)
  copies = dict(pair for line in lines for pair in re.findall(r"^cp (\S+\.py) (\S+\.py)", line.strip()))
  copies = {copy: source for source, copy in copies.items()}
  found = []
  for line in lines:
    for program, flags in re.findall(
      r"\bexperiments\.([a-z]\w*)((?: +-[^\s\"]+(?:(?<==)\"[^\s\"]+\")?)*)", line
    ):
      arguments = shlex.split(flags)
      for i, flag in enumerate(arguments):
        key, equals, value = flag.partition("=")
        file, colon, mode = value.partition(":")
        value = f"{copies.get(file, file)}{colon}{mode}".replace("...", "gmm" if key == "--config" else "x")
        arguments[i] = f"{key}{equals}{value}"
      found.append((program, *arguments))
  return sorted(set(found))


def links(page: pathlib.Path) -> list[str]:
  """Targets within the project."""
  text = _FENCED.sub("", page.read_text())
  targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text))
  return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: pathlib.Path) -> set[str]:
  """The fragments that its headings have."""
  headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text()), re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
