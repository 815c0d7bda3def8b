"""A report as one HTML file that needs nothing else: no network, no script, pictures inside.

It reads on a phone, on a desk, on paper, in light and dark (`page`).
"""

import base64
import dataclasses
import html
import math
import numbers
import os
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from mfm_jax.viz import page
from mfm_jax.viz.files import write_atomically

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MINUS = "−"
_DENSE = 1000  # pixels; a picture at least so wide was drawn for dense screens


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture of a section.

  Attributes:
    content: the bytes of a PNG file, or an <svg> element (`style.figure_svg`).
    alt: what it shows, for those who cannot see it.
    caption: plain text under it.

  Raises:
    ValueError: other content, an empty `alt`.
  """

  content: bytes | str
  alt: str
  caption: str = ""

  def __post_init__(self):
    content = self.content
    known = content.startswith(_PNG_SIGNATURE) if isinstance(content, bytes) else content.startswith("<svg ")
    if not known:
      raise ValueError(f"content of a picture must be a PNG file or <svg>; got {content[:8]!r}")
    if not self.alt.strip():
      raise ValueError(f"alt of a picture must not be empty; got {self.alt!r}")


@dataclasses.dataclass(frozen=True)
class Measured:
  """A figure with its standard error, None where it is not known; shown to two digits of the error."""

  value: float
  error: float | None = None

  def texts(self) -> tuple[str, str]:
    """The figure, and the error with its sign."""
    if not self.error:
      return _text(self.value), ""
    digits = max(1 - math.floor(math.log10(self.error)), 0)
    if digits > 5:
      return _text(float(f"{self.value:.3g}")), f"± {self.error:.1g}".replace("-", _MINUS)
    return f"{self.value:,.{digits}f}".replace("-", _MINUS), f"± {self.error:,.{digits}f}"


@dataclasses.dataclass(frozen=True)
class Section:
  """One part of a report, in this order: title, text, pictures, table, terms.

  Attributes:
    title: its heading.
    text: plain text; an empty line starts a new paragraph, `code` stands between backticks.
    pictures: charts and images.
    table: rows by column name; a column that a row lacks is left empty. Numbers are shown with four
      significant digits.
    terms: what words of the table mean, by word.
    folded: whether it shows its title alone until it is opened (not on paper).

  Raises:
    ValueError: an empty title, a table without rows.
  """

  title: str
  text: str = ""
  pictures: Sequence[Picture] = ()
  table: Sequence[Mapping[str, Any]] | None = None
  terms: Mapping[str, str] = dataclasses.field(default_factory=dict)
  folded: bool = False

  def __post_init__(self):
    if not self.title.strip():
      raise ValueError(f"title of a section must not be empty; got {self.title!r}")
    if self.table is not None and not any(self.table):
      raise ValueError(f"table of {self.title!r} must have a row with a column; got {self.table}")


def write_report(path: str | os.PathLike, title: str, sections: Sequence[Section], **more: Any) -> int:
  """Writes the report to `path`, at once or not at all, making its folder; returns its size in bytes.

  Args:
    path: of the HTML file.
    title, sections, more: as `render`.
  """
  content = render(title, sections, **more).encode()
  write_atomically(path, content)
  return len(content)


def render(
  title: str,
  sections: Sequence[Section],
  *,
  provenance: Mapping[str, Any],
  subtitle: str = "",
  highlights: Mapping[str, Any] | None = None,
) -> str:
  """The page as text.

  Args:
    title: heading and title of the page.
    sections: its parts; a table of contents precedes three or more.
    provenance: what made it (command, seed, versions, hardware, date), listed at the end; a value may be a
      group of such pairs under its name.
    subtitle: a line under the title.
    highlights: a few figures by what they are, shown large.
  """
  anchors = _anchors(sections)
  lead = [f'<p class="subtitle">{_inline(subtitle)}</p>'] if subtitle else []
  if highlights:
    lead.append(_pairs(highlights, "highlights", "<div>{}</div>"))
  if len(sections) >= 3:
    links = "".join(
      f'<li><a href="#{anchor}">{html.escape(section.title)}</a></li>'
      for anchor, section in zip(anchors, sections)
    )
    lead.append(f'<nav aria-label="Contents"><ul>{links}</ul></nav>')
  groups = [(name, value) for name, value in provenance.items() if isinstance(value, Mapping)]
  parts = [f"<h3>{html.escape(name)}</h3>{_pairs(pairs)}" for name, pairs in groups]
  alone = {name: value for name, value in provenance.items() if not isinstance(value, Mapping)}
  parts = [_pairs(alone)] * bool(alone) + parts
  footer = f"<footer><h2>How this was made</h2>{''.join(parts)}</footer>" if parts else ""
  return page.TEMPLATE.format(
    title=html.escape(title),
    style=page.STYLE,
    lead="\n".join(lead),
    body="\n".join(_section(anchor, section) for anchor, section in zip(anchors, sections)),
    footer=footer,
  )


def _section(anchor: str, section: Section) -> str:
  heading = f"<h2>{html.escape(section.title)}</h2>"
  paragraphs = re.split(r"\n\s*\n", section.text.strip()) if section.text.strip() else []
  parts = [f"<p>{_inline(paragraph)}</p>" for paragraph in paragraphs]
  if section.pictures:
    parts.append(f'<div class="pictures">{"".join(map(_picture, section.pictures))}</div>')
  if section.table is not None:
    parts.append(_table(section.title, section.table))
  if section.terms:
    parts.append(_pairs(section.terms))
  body = "\n".join(parts)
  if section.folded:
    return f'<section id="{anchor}"><details><summary>{heading}</summary>{body}</details></section>'
  return f'<section id="{anchor}">{heading}\n{body}</section>'


def _inline(text: str) -> str:
  return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _pairs(values: Mapping[str, Any], kind: str = "pairs", pair: str = "{}") -> str:
  rows = (
    pair.format(f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(_text(value))}</dd>")
    for name, value in values.items()
  )
  return f'<dl class="{kind}">{"".join(rows)}</dl>'


def _picture(picture: Picture) -> str:
  alt = html.escape(picture.alt)
  caption = f"<figcaption>{_inline(picture.caption)}</figcaption>" if picture.caption else ""
  box = f'<div class="scroll" role="region" tabindex="0" aria-label="{alt}">{{}}</div>'
  if isinstance(picture.content, str):
    element = picture.content.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1)
  else:
    # The size lets a browser reserve the room; a PNG keeps it right after its signature.
    width, height = struct.unpack(">II", picture.content[16:24])
    data = base64.b64encode(picture.content).decode()
    # Charts are drawn at two pixels per unit for dense screens; small grids of pixels stay crisp.
    crisp = width < _DENSE
    shown = width if crisp else width // 2
    element = (
      f'<img{" class=crisp" * crisp} src="data:image/png;base64,{data}" alt="{alt}" '
      f'width="{shown}" height="{round(height * shown / width)}">'
    )
    box = "{}" if crisp else box
  kind = ' class="wide"' if box != "{}" else ""
  return f"<figure{kind}>{box.format(element)}{caption}</figure>"


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
  columns = list(dict.fromkeys(column for row in rows for column in row))
  known = {c: [row[c] for row in rows if row.get(c) is not None] for c in columns}
  numeric = {c for c, values in known.items() if values and all(map(_is_number, values))}

  def cell(row, column, tag):
    kind = ' class="number"' if column in numeric else ""
    scope = ' scope="row"' if tag == "th" else ""
    value = row.get(column, "")
    if isinstance(value, Measured):
      figure, error = value.texts()
      value = f"{figure} <small>{error}</small>" if error else figure
    else:
      value = html.escape(_text(value))
    return f"<{tag}{scope}{kind}>{value}</{tag}>"

  def title_cell(column):
    kind = ' class="number"' if column in numeric else ""
    return f'<th scope="col"{kind}>{html.escape(str(column))}</th>'

  head = "".join(map(title_cell, columns))
  body = "".join(
    "<tr>" + "".join(cell(row, c, "td" if i else "th") for i, c in enumerate(columns)) + "</tr>"
    for row in rows
  )
  # A wide table scrolls inside its own box, which takes the focus so that a keyboard can do it.
  label = html.escape(f"Table: {title}")
  return (
    f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
    f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
  )


def _plain(value):
  """A scalar of NumPy or JAX as Python's; anything else as it is."""
  return value.item() if getattr(value, "ndim", None) == 0 else value


def _is_number(value) -> bool:
  value = _plain(value)
  return isinstance(value, numbers.Real | Measured) and not isinstance(value, bool)


def _text(value) -> str:
  value = _plain(value)
  if value is None:
    return "–"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, numbers.Real):
    whole = isinstance(value, numbers.Integral) or 1e4 <= abs(float(value)) < 1e9
    return (f"{value:,.0f}" if whole else f"{value:.4g}").replace("-", _MINUS)
  return str(value)


def _anchors(sections: Sequence[Section]) -> list[str]:
  """A distinct id for each section, made of its number and the letters of its title."""
  words = (re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") for section in sections)
  return [f"s{i}-{word}".rstrip("-") for i, word in enumerate(words, 1)]
