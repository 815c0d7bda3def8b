"""The report in a real browser: it fits a phone, asks the network for nothing, all its pictures are seen."""

import html
import json
import re

import browser_case
import numpy as np
import pytest
from PIL import Image

from mfm_jax.viz import grids, panels, report, style

# What the browser finds when the page has been laid out, written into its title; the report has no script.
PROBE = """<script>addEventListener("load", () => {
  const box = document.documentElement, images = [...document.images];
  const wide = [...document.querySelectorAll("body *")].filter(element =>
    !element.closest(".scroll") && element.getBoundingClientRect().right > innerWidth + 1);
  document.title = JSON.stringify({
    width: innerWidth, page: box.scrollWidth, wide: wide.map(element => element.tagName),
    images: images.length, broken: images.filter(image => !(image.complete && image.naturalWidth)).length,
    charts: [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().height),
    requests: performance.getEntriesByType("resource").map(entry => entry.name)
      .filter(name => !name.startsWith("data:")),
  });
});</script>"""


def look(page: str, folder, width: int = 390) -> dict:
  """What the probe finds in a window of this width (in a frame: a window itself may not be so narrow)."""
  inner = folder / "inner.html"
  inner.write_text(page.replace("</head>", PROBE + "</head>"))
  outer = folder / "outer.html"
  outer.write_text(
    f'<iframe src="inner.html" style="width:{width}px;height:800px;border:0"></iframe><script>'
    'addEventListener("load", () => { document.title = frames[0].document.title; });</script>'
  )
  found = browser_case.browse(outer, "--allow-file-access-from-files", "--dump-dom")
  return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", found)[1]))


@pytest.fixture(scope="module")
def page():
  steps = np.arange(1.0, 50.0)
  chart = style.figure_svg(panels.multiples({"error": {"training": (steps, 1 / steps)}}), "error")
  wide = grids.png_bytes(np.full((300, 1400, 3), 90, np.uint8))
  small = grids.png_bytes(np.zeros((60, 60, 3), np.uint8))
  words = "a_rather_long_name_of_a_column"
  table = [{"method": f"method {i}", **{f"{words}_{j}": i * j / 7 for j in range(9)}} for i in range(4)]
  section = report.Section(
    "Everything",
    "Some text, and a `command --with=a_very_long_flag_that_does_not_break_by_itself_at_all/in/a/path`.",
    [report.Picture(content, "what it shows", "caption") for content in (chart, wide, small)],
    table,
    {"a term": "what it means"},
  )
  folded = report.Section("All keys", table=table, folded=True)
  return report.render(
    "A title",
    [section, folded, section],
    provenance={"commit": "0123456789abcdef" * 4},
    subtitle="`runs/with/a/long/path/that/goes/on`",
    highlights={"steps": "5,000", "seconds": 94.0},
  )


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_no_width_makes_the_page_scroll_sideways(page, width, tmp_path):
  found = look(page, tmp_path, width)
  assert found["width"] == width
  assert found["page"] <= width, found["wide"]
  assert found["wide"] == []


def test_every_picture_is_seen_and_nothing_is_requested(page, tmp_path):
  found = look(page, tmp_path)
  assert (found["images"], found["broken"]) == (4, 0)
  assert len(found["charts"]) == 2
  assert min(found["charts"]) > 100
  assert found["requests"] == []


def test_the_probe_sees_what_it_is_there_to_see(page, tmp_path):
  """A page that is too wide, a picture that is none, a picture from the network."""
  spoilt = (
    '<p style="width: 600px">x</p><img src="data:image/png;base64,AAAA"><img src="https://a.test/x.png">'
  )
  found = look(page.replace("</main>", spoilt + "</main>"), tmp_path)
  assert found["page"] == pytest.approx(620, abs=20)
  assert "P" in found["wide"]
  assert found["broken"] == 2
  assert found["requests"] == ["https://a.test/x.png"]


@pytest.mark.parametrize(("scheme", "paper", "ink"), [(1, 255, 31), (0, 22, 230)])
def test_light_and_dark_pages(page, scheme, paper, ink, tmp_path):
  (tmp_path / "page.html").write_text(page)
  picture = tmp_path / "page.png"
  flags = [f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}"]
  browser_case.browse(tmp_path / "page.html", *flags, "--window-size=800,200")
  grey = np.asarray(Image.open(picture).convert("L"), np.int32)[:100]  # the title, in the ink of charts too
  assert np.median(grey) == pytest.approx(paper, abs=2)
  assert np.abs(grey - ink).min() < 8
  assert np.abs(grey - paper).max() == pytest.approx(abs(ink - paper), abs=12)


def test_a_page_of_paper(page, tmp_path):
  (tmp_path / "page.html").write_text(page)
  browser_case.browse(tmp_path / "page.html", f"--print-to-pdf={tmp_path / 'page.pdf'}")
  assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
