"""A report as one HTML file that needs nothing else: no network, no script, pictures inside.

It reads on a phone, on a desk, on paper, in light and dark.
"""

import base64
import dataclasses
import html
import numbers
import os
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from mfm_jax.viz.files import write_atomically

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class Section:
  """One part of a report, in this order: title, text, image, table.

  Attributes:
    title: its heading.
    text: plain text; an empty line starts a new paragraph.
    image: the bytes of a PNG file, or None.
    table: rows by column name; a column that a row lacks is left empty. Numbers are shown with four
      significant digits.
    alt: what the image shows, for those who cannot see it; the title if empty.

  Raises:
    ValueError: an empty title, an image that is not a PNG, a table without rows.
  """

  title: str
  text: str = ""
  image: bytes | None = None
  table: Sequence[Mapping[str, Any]] | None = None
  alt: str = ""

  def __post_init__(self):
    if not self.title.strip():
      raise ValueError(f"title of a section must not be empty; got {self.title!r}")
    if self.image is not None and not self.image.startswith(_PNG_SIGNATURE):
      raise ValueError(f"image of {self.title!r} must be a PNG file; got {self.image[:8]!r}")
    if self.table is not None and not any(self.table):
      raise ValueError(f"table of {self.title!r} must have a row with a column; got {self.table}")


def write_report(
  path: str | os.PathLike,
  title: str,
  sections: Sequence[Section],
  *,
  provenance: Mapping[str, Any],
) -> None:
  """Writes the report to `path`, at once or not at all, making its folder.

  Args:
    path: of the HTML file.
    title: heading and title of the page.
    sections: its parts; a table of contents precedes three or more.
    provenance: what made it (command, seed, versions, hardware, date), listed at the end.
  """
  write_atomically(path, render(title, sections, provenance=provenance).encode())


def render(title: str, sections: Sequence[Section], *, provenance: Mapping[str, Any]) -> str:
  """The page of `write_report` as text."""
  anchors = _anchors(sections)
  contents = ""
  if len(sections) >= 3:
    links = "".join(
      f'<li><a href="#{anchor}">{html.escape(section.title)}</a></li>'
      for anchor, section in zip(anchors, sections)
    )
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
  body = "\n".join(_section(anchor, section) for anchor, section in zip(anchors, sections))
  origin = "".join(
    f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>"
    for name, value in provenance.items()
  )
  footer = f"<footer><h2>How this was made</h2><dl>{origin}</dl></footer>" if origin else ""
  return _PAGE.format(title=html.escape(title), style=_STYLE, contents=contents, body=body, footer=footer)


def _section(anchor: str, section: Section) -> str:
  parts = [f"<h2>{html.escape(section.title)}</h2>"]
  paragraphs = re.split(r"\n\s*\n", section.text.strip()) if section.text.strip() else []
  parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs]
  if section.image is not None:
    # The size lets a browser reserve the room; a PNG keeps it right after its signature.
    width, height = struct.unpack(">II", section.image[16:24])
    data = base64.b64encode(section.image).decode()
    alt = html.escape(section.alt or section.title)
    # Charts are drawn at two pixels per unit for dense screens; small grids of pixels stay crisp.
    crisp = ' class="crisp"' if width < _DENSE else ""
    shown = width if crisp else width // 2
    scrolls = "" if crisp else ' tabindex="0"'
    parts.append(
      f'<figure{scrolls}><img{crisp} src="data:image/png;base64,{data}" alt="{alt}" '
      f'width="{shown}" height="{round(height * shown / width)}"></figure>'
    )
  if section.table is not None:
    parts.append(_table(section.title, section.table))
  return f'<section id="{anchor}">' + "\n".join(parts) + "</section>"


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
  columns = list(dict.fromkeys(column for row in rows for column in row))
  numeric = {c for c in columns if all(_is_number(row[c]) for row in rows if c in row)}

  def cell(row, column, tag):
    kind = ' class="number"' if column in numeric else ""
    scope = ' scope="row"' if tag == "th" else ""
    value = html.escape(_text(row[column])) if column in row else ""
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
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _text(value) -> str:
  value = _plain(value)
  if value is None:
    return "–"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, numbers.Integral):
    return f"{value:,}" if abs(value) >= 10_000 else str(value)
  if isinstance(value, numbers.Real):
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
  return str(value)


def _anchors(sections: Sequence[Section]) -> list[str]:
  """A distinct id for each section, made of its number and the letters of its title."""
  words = (re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") for section in sections)
  return [f"s{i}-{word}".rstrip("-") for i, word in enumerate(words, 1)]


_DENSE = 1000  # pixels; a picture at least so wide was drawn for dense screens

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{contents}
{body}
</main>
{footer}
</body>
</html>
"""

_STYLE = """
:root { --ink: #1f2328; --muted: #59636e; --line: #d8dee4; --paper: #ffffff; --soft: #f6f8fa;
  --link: #0059a8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --muted: #9aa4ae; --line: #363c44; --paper: #14171a; --soft: #1d2125;
    --link: #7cb8f0; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 46rem; background: var(--paper);
  color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.25rem 0 .5rem; }
p { margin: .6rem 0; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0; padding: .6rem 0;
  list-style: none; border-block: 1px solid var(--line); font-size: .9rem; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; background: #ffffff; }
img.crisp { image-rendering: pixelated; }
@media (prefers-color-scheme: dark) { img:not(.crisp) { padding: .5rem; } }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .9rem .4rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th:not(:first-child), td:not(:first-child) { padding-left: .9rem; }
thead th { color: var(--muted); font-weight: 600; }
tbody th { font-weight: 500; }
.number { text-align: right; }
td.number { white-space: nowrap; }
footer { margin-top: 3rem; padding: .25rem 1rem 1rem; background: var(--soft);
  border-radius: 6px; font-size: .85rem; }
footer h2 { font-size: 1rem; margin: .75rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0; }
dt { color: var(--muted); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
@media screen and (max-width: 40rem) {
  /* A chart keeps its letters readable and scrolls sideways. */
  figure { overflow-x: auto; } img:not(.crisp) { min-width: 36rem; } }
@media (max-width: 30rem) {
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
@media print {
  :root { --ink: #000000; --muted: #444444; --line: #bbbbbb; --paper: #ffffff; --soft: #ffffff; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2, p:has(+ figure), p:has(+ .scroll) { break-after: avoid; }
  figure, tr, footer { break-inside: avoid; }
  img { max-height: 22cm; width: auto; }
  .scroll { overflow: visible; } }
"""
