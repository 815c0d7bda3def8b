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
  report.Section("First & <foremost>", "One.\n\nTwo <b>bold</b>, `a = <c>`."),
  report.Section("Picture", pictures=[report.Picture(PNG, 'A "quoted" picture', "Under & it.")]),
  report.Section("Grid", pictures=[report.Picture(grids.png_bytes(np.zeros((4, 6, 3), np.uint8)), "Grid")]),
  report.Section("Chart", pictures=[report.Picture('<svg width="1"><path d="M 0 0"/></svg>', "A <chart>")]),
  report.Section(
    "Figures",
    table=[
      {"name": "<a>", "value": 0.123456, "n": 12000, "ok": True, "mean": report.Measured(-0.18034, 0.0071)},
      {
        "name": "b",
        "value": np.float32(-2.5),
        "n": jnp.int32(3),
        "extra": None,
        "mean": report.Measured(7),
      },
    ],
    terms={"value": "what <it> means"},
  ),
  report.Section("Folded", table=[{"key": "x"}], folded=True),
]
MORE = {
  "provenance": {"command": "python -m x --a=<b>", "seed": 12345},
  "subtitle": "`runs/<x>`",
  "highlights": {"steps": 12000},
}


@pytest.fixture(name="page", scope="module")
def _page():
  return report.render("Title & more", SECTIONS, **MORE)


def test_every_title_text_and_provenance_is_there_and_escaped(page):
  words = "\n".join(Reader(page).words)
  for expected in (
    "Title & more",
    *(s.title for s in SECTIONS),
    "One.",
    "Two <b>bold</b>, ",
    "a = <c>",
    "Under & it.",
    "what <it> means",
    "python -m x --a=<b>",
    "12,345",
    "runs/<x>",
    "12,000",
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
  (svg,) = Reader(page).all("svg")
  assert (svg["role"], svg["aria-label"]) == ("img", "A <chart>")


def test_table_has_a_heading_for_each_column_and_readable_numbers(page):
  reader = Reader(page)
  assert sum(th.get("scope") == "col" for th in reader.all("th")) == 6 + 1
  assert sum(th.get("scope") == "row" for th in reader.all("th")) == 2 + 1
  body = page.split("<tbody>")[1].split("</tbody>")[0]
  cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", body)
  first = ["&lt;a&gt;", "0.1235", "12,000", "yes", "−0.1803 <small>± 0.0071</small>", ""]
  assert cells == [*first, "b", "−2.5", "3", "", "7", "–"]
  assert body.count('class="number"') == 2 * 3


def test_contents_link_to_distinct_sections_even_with_equal_titles():
  sections = [report.Section("Same"), report.Section("Same"), report.Section("é!")]
  reader = Reader(report.render("t", sections, provenance={}))
  anchors = [section["id"] for section in reader.all("section")]
  assert len(set(anchors)) == 3
  assert [a["href"] for a in reader.all("a")] == [f"#{anchor}" for anchor in anchors]
  assert not reader.all("footer")


def test_the_file_is_the_page_in_utf8(tmp_path, page):
  path = tmp_path / "run" / "report.html"
  size = report.write_report(path, "Title & more", SECTIONS, **MORE)
  assert path.read_text(encoding="utf-8") == page
  assert path.stat().st_size == size
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
    ({"title": "a", "table": []}, r"table of 'a' must have a row with a column; got \[\]"),
  ],
)
def test_bad_sections_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    report.Section(**fields)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"content": b"JFIF", "alt": "a"}, "content of a picture must be a PNG file or <svg>; got b'JFIF'"),
    ({"content": "<img>", "alt": "a"}, "content of a picture must be a PNG file or <svg>; got '<img>'"),
    ({"content": PNG, "alt": ""}, "alt of a picture must not be empty; got ''"),
  ],
)
def test_bad_pictures_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    report.Picture(**fields)


@pytest.mark.parametrize(
  ("value", "error", "shown"),
  [
    (1.23456, 0.0789, ("1.235", "± 0.079")),
    (-123.4, 34.5, ("−123", "± 34")),
    (12345.6, 120.0, ("12,346", "± 120")),
    (0.5, None, ("0.5", "")),
    (0.5, 0.0, ("0.5", "")),
  ],
)
def test_a_measured_figure_is_shown_to_two_digits_of_its_error(value, error, shown):
  assert report.Measured(value, error).texts() == shown


def contrast(one: str, other: str) -> float:
  """The contrast ratio of WCAG 2."""

  def luminance(colour):
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])

  low, high = sorted((luminance(one), luminance(other)))
  return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_letters_and_lines_stand_out(scheme, page):
  """WCAG 2 asks for 4.5 of letters and 3 of lines; the paper's own orange and sky blue have 2.3."""
  values = [dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in re.findall(r":root \{(.*?)\}", page)]
  colours = values[scheme]
  for name in ("ink", "muted", "link"):
    for paper in ("paper", "soft"):
      assert contrast(colours[name], colours[paper]) >= 4.5, name
  charts = [contrast(colour, colours["paper"]) for name, colour in colours.items() if "chart" in name]
  assert len(charts) == 8
  assert min(charts) >= (2.2 if scheme == 0 else 5.0)
