"""Colours for people, and none for files, pipes and those who set NO_COLOR (no-color.org)."""

import os
from typing import TextIO

_CODES = {"red": "31", "green": "32", "yellow": "33"}


def coloured(text: str, colour: str, stream: TextIO) -> str:
  """`text` in red, green or yellow where `stream` is a terminal that has colours; else as it is."""
  plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
  return text if plain else f"\033[{_CODES[colour]}m{text}\033[0m"
