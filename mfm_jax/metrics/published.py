"""Published figures of class-conditional ImageNet at 256x256, to print beside ours."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
  """One figure.

  Attributes:
    model: its name.
    steps: of its sampler.
    fid: 50,000 balanced samples against the training set.
    source: where it was read; "second-hand" in a summary, not in the paper.
  """

  model: str
  steps: int
  fid: float
  source: str


MFM = "MFM-XL/2"
FIGURES = (
  Published(model=MFM, steps=4, fid=1.97, source="second-hand"),
  Published(model="DMF-XL/2+", steps=1, fid=2.16, source="paper and README"),
  Published(model="DMF-XL/2+", steps=4, fid=1.51, source="paper and README"),
  Published(model="MeanFlow-XL/2", steps=1, fid=3.43, source="later papers"),
  Published(model="iMF-XL/2", steps=1, fid=1.70, source="README"),
  Published(model="iMF-XL/2", steps=2, fid=1.53, source="README"),
  Published(model="Shortcut-XL", steps=1, fid=10.6, source="paper"),
  Published(model="Shortcut-XL", steps=4, fid=7.8, source="paper"),
  Published(model="SiT-XL/2", steps=250, fid=2.06, source="README"),
  Published(model="SiT-XL/2 + REPA", steps=250, fid=1.42, source="README"),
)


def at(steps: int) -> Published | None:
  """The figure of a published Meta Flow Map in so many steps."""
  return next((known for known in FIGURES if (known.model, known.steps) == (MFM, steps)), None)
