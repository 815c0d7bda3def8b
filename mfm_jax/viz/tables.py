"""Tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any


def text_table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
  """Rows with the same keys as aligned columns; floats have four significant digits, None is blank."""
  cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
  widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
  lines = ("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
  return "\n  ".join([title, *lines])


def _cell(value: Any) -> str:
  if value is None:
    return ""
  return f"{value:.4g}" if isinstance(value, float) else str(value)
