"""The ImageNet experiments at toy size, from pictures to reports, by the commands of the full size."""

import os

import numpy as np
import pytest
from PIL import Image
from test_cli_docs import _table


def test_what_cannot_be_rehearsed_is_said_at_once(commands, tmp_path):
  done = commands("rehearsal", f"--workdir={tmp_path / 'a'}", f"--images={tmp_path}")
  assert "the train split of a folder of pictures must be in" in done.mistake


@pytest.mark.slow
def test_the_rehearsal(mfm_data_dir, commands, tmp_path):
  assert os.environ["MFM_DATA_DIR"] == str(mfm_data_dir)
  done = commands("rehearsal", f"--workdir={tmp_path}")
  found = done.json
  assert set(found) == set(_table("rehearsal", "JSON key"))
  # Steering and fine-tuning to a reward of a random network raise it.
  assert found["reward"]["mfm_gf"] > found["reward"]["base"]
  assert found["reward_finetuned"] > found["reward_base"]
  assert np.isfinite([found["fid"], *found["posterior_fid"].values()]).all()
  for name, sections in (
    ("run", ("Samples", "Posterior draws", "Samples against the data", "Reward against cost")),
    ("finetuned", ("Samples", "Panel against reward hacking")),
  ):
    page = (tmp_path / name / "report.html").read_text()
    assert [title for title in sections if title not in page] == []
  with Image.open(tmp_path / "run" / "samples" / "marginal.png") as picture:
    assert np.asarray(picture).std() > 20  # decoded pictures have colours
  assert (tmp_path / "benchmark" / "benchmark.png").exists()
