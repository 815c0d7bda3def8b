"""How charts look: one type face, one palette, a plain frame, made to be read 700 px wide.

Figures are built from `matplotlib.figure.Figure` and never from pyplot, so nothing global changes
and figures can be drawn in any thread and without a display.
"""

import io

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


def new_figure(height: float, layout: str | None = "constrained"):
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


def figure_array(figure) -> np.ndarray:
  """The pixels of a figure, uint8 (h, w, 3)."""
  figure.canvas.draw()
  return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def text(size: float = NORMAL, color: str = INK, **more) -> dict:
  """Arguments of a matplotlib text."""
  return {"fontfamily": FONT, "fontsize": size, "color": color, **more}


def tidy(axes, *, grid: bool = False) -> None:
  """Two thin spines, small ticks, the common font; optionally faint horizontal lines."""
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set(color=MUTED, linewidth=0.6)
  axes.tick_params(which="both", colors=MUTED, labelsize=SMALL, labelfontfamily=FONT, width=0.6, length=3)
  if grid:
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
