"""The report: complete, self-contained, escaped, well-formed."""

import base64
import html.parser
import re

import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax.viz import grids, report

VOID = {"meta", "link", "img", "br", "hr"}
PNG = grids.png_bytes(np.full((30, 1200, 3), 7, np.uint8))


class Reader(html.parser.HTMLParser):
  """Collects elements, fails on tags that do not nest."""

  def __init__(self, page):
    super().__init__()
    self.open, self.elements, self.words = [], [], []
    self.feed(page)
    self.close()
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] not in ("style",):
      self.words.append(data)

  def all(self, tag):
    return [attrs for name, attrs in self.elements if name == tag]


SECTIONS = [
  report.Section("First & <foremost>", "One.\n\nTwo <b>bold</b>.", alt="unused"),
  report.Section("Picture", image=PNG, alt='A "quoted" picture'),
  report.Section("Grid", image=grids.png_bytes(np.zeros((4, 6, 3), np.uint8))),
  report.Section(
    "Figures",
    table=[
      {"name": "<a>", "value": 0.123456, "n": 12000, "ok": True},
      {"name": "b", "value": np.float32(2.5), "n": jnp.int32(3), "extra": None},
    ],
  ),
]
PROVENANCE = {"command": "python -m x --a=<b>", "seed": 12345}


@pytest.fixture(name="page", scope="module")
def _page():
  return report.render("Title & more", SECTIONS, provenance=PROVENANCE)


def test_every_title_text_and_provenance_is_there_and_escaped(page):
  words = "\n".join(Reader(page).words)
  for expected in (
    "Title & more",
    *(s.title for s in SECTIONS),
    "One.",
    "Two <b>bold</b>.",
    "python -m x --a=<b>",
    "12345",
  ):
    assert expected in words
  assert not Reader(page).all("b")


def test_the_page_loads_nothing_and_runs_nothing(page):
  reader = Reader(page)
  assert "http" not in page
  assert "url(" not in page
  assert "@import" not in page
  assert not reader.all("script")
  sources = [a["src"] for a in reader.all("img")] + [a["href"] for a in reader.all("link")]
  assert all(source.startswith("data:") for source in sources)


def test_images_are_the_given_bytes_with_alt_text_and_size(page):
  chart, grid = Reader(page).all("img")
  assert base64.b64decode(chart["src"].removeprefix("data:image/png;base64,")) == PNG
  assert chart["alt"] == 'A "quoted" picture'
  assert (chart["width"], chart["height"]) == ("600", "15")  # drawn at two pixels per unit
  assert (grid["alt"], grid["width"], grid["height"]) == ("Grid", "6", "4")


def test_table_has_a_heading_for_each_column_and_readable_numbers(page):
  reader = Reader(page)
  assert sum(th.get("scope") == "col" for th in reader.all("th")) == 5
  assert sum(th.get("scope") == "row" for th in reader.all("th")) == 2
  body = page.split("<tbody>")[1].split("</tbody>")[0]
  cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", body)
  assert cells == ["&lt;a&gt;", "0.1235", "12,000", "yes", "", "b", "2.5", "3", "", "–"]
  assert body.count('class="number"') == 4


def test_contents_link_to_distinct_sections_even_with_equal_titles():
  sections = [report.Section("Same"), report.Section("Same"), report.Section("é!")]
  reader = Reader(report.render("t", sections, provenance={}))
  anchors = [section["id"] for section in reader.all("section")]
  assert len(set(anchors)) == 3
  assert [a["href"] for a in reader.all("a")] == [f"#{anchor}" for anchor in anchors]
  assert not reader.all("footer")


def test_the_file_is_the_page_in_utf8(tmp_path, page):
  path = tmp_path / "run" / "report.html"
  report.write_report(path, "Title & more", SECTIONS, provenance=PROVENANCE)
  assert path.read_text(encoding="utf-8") == page
  assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
  path = tmp_path / "report.html"
  path.write_text("old")
  with pytest.raises(AttributeError):
    report.write_report(path, "t", [None], provenance={})
  assert path.read_text() == "old"


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"title": " "}, "title of a section must not be empty; got ' '"),
    ({"title": "a", "image": b"JFIF"}, "image of 'a' must be a PNG file; got b'JFIF'"),
    ({"title": "a", "table": []}, r"table of 'a' must have a row with a column; got \[\]"),
  ],
)
def test_bad_sections_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    report.Section(**fields)
