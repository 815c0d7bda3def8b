"""How charts look: one type face, one palette, a plain frame, made to be read 700 px wide.

Figures are built from `matplotlib.figure.Figure` and never from pyplot, so nothing global changes
and figures can be drawn in any thread and without a display.
"""

import io
import re
from typing import Literal

import numpy as np

WIDTH = 7.0  # inches; 100 px each at the display width, DPI px in the file
DPI = 200  # for dense screens
FONT = "DejaVu Sans"  # ships with matplotlib, so a chart is the same on every machine
SMALL, NORMAL, TITLE = 8.0, 9.0, 10.5  # points

INK, MUTED, FAINT = "#1f2328", "#6b7280", "#e5e7eb"
# Okabe and Ito's colours, told apart under every common colour blindness; the yellow is left out
# because it is too light for lines on white, a brown is added.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b")
REFERENCE = "#9ca3af"  # what the drawn thing is compared with
# The same in the dark, where letters and lines must be light; a page sets them as CSS variables.
DARK_INK, DARK_MUTED, DARK_FAINT = "#e6e9ec", "#9aa4ae", "#363c44"
DARK_PALETTE = ("#4d9fe0", "#f0803c", "#3cc79a", "#dd93bd", "#f0b429", "#9ad4f5", "#ffffff", "#bd9388")
VARIABLES = {INK: "--ink", MUTED: "--muted", FAINT: "--line"} | {
  colour: f"--chart-{i}" for i, colour in enumerate(PALETTE)
}


def new_figure(height: float, layout: Literal["constrained"] | None = "constrained"):
  """A white figure, WIDTH x height inches, with its own Agg canvas."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout=layout, facecolor="white")
  FigureCanvasAgg(figure)
  return figure


def figure_png(figure) -> bytes:
  """The PNG file of a figure."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=DPI)
  return buffer.getvalue()


def figure_svg(figure, name: str) -> str:
  """A figure as an <svg> element without paper, whose colours follow the page (`VARIABLES`).

  Args:
    figure: of `new_figure`.
    name: letters, digits and hyphens, one for each chart of a page: the start of the ids in it.
  """
  buffer = io.StringIO()
  nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
  figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
  # The style sheet in it would be one of the whole page; <svg> can say the same of itself. Fill that is black
  # is not written.
  text = re.sub(r'(?s)^.*?(?=<svg )|<style.*?</style>| xmlns(:\w+)?="[^"]*"', "", buffer.getvalue())
  text = text.replace("<svg ", '<svg stroke-linejoin="round" style="fill: #000000" ', 1)
  # Ids that nothing refers to would come twice in a page of several charts; the others come at random.
  used = list(dict.fromkeys(re.findall(r'(?:href="#|url\(#)([\w-]+)', text)))
  number = {old: f"{name}-{i}" for i, old in enumerate(used)}
  text = re.sub(r' id="([^"]+)"', lambda m: f' id="{number[m[1]]}"' if m[1] in number else "", text)
  text = re.sub(r'(href="#|url\(#)([\w-]+)', lambda m: m[1] + number[m[2]], text)
  text = re.sub("|".join(VARIABLES), lambda m: f"var({VARIABLES[m[0]]})", text)
  return re.sub(r"\s*\n\s*", " ", text).strip()


def figure_array(figure) -> np.ndarray:
  """The pixels of a figure, uint8 (h, w, 3)."""
  figure.canvas.draw()
  return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def text(size: float = NORMAL, color: str = INK, **more) -> dict:
  """Arguments of a matplotlib text."""
  return {"fontfamily": FONT, "fontsize": size, "color": color, **more}


def wide_range(axes, which: str, values) -> bool:
  """Scales the "x" or "y" axis by asinh where one value would press the others together; says whether."""
  from matplotlib.ticker import FixedLocator, NullLocator

  sizes = np.abs([value for value in values if value is not None and np.isfinite(value)])
  middle = float(np.median(sizes)) if sizes.size else 0.0
  if not (middle > 0 and sizes.max() > 20 * middle):
    return False
  width = 10.0 ** round(np.log10(middle))
  getattr(axes, f"set_{which}scale")("asinh", linear_width=width)
  axes.autoscale_view()  # margins by the new scale
  powers = width * 10.0 ** np.arange(1 + np.log10(sizes.max() / width))
  axis, (low, high) = getattr(axes, f"{which}axis"), getattr(axes, f"get_{which}lim")()
  axis.set_major_locator(FixedLocator([x for x in (*-powers[::-1], 0.0, *powers) if low <= x <= high]))
  axis.set_minor_locator(NullLocator())
  axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
  return True


def tidy(axes, *, grid: bool = False) -> None:
  """Two thin spines, small ticks, the common font; optionally faint horizontal lines."""
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set(color=MUTED, linewidth=0.6)
  axes.tick_params(which="both", colors=MUTED, labelsize=SMALL, labelfontfamily=FONT, width=0.6, length=3)
  if grid:
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
