"""Runs that the tests of training share. Tests that change a run copy it first."""

import pathlib

import numpy as np
import pytest
import run_case

from mfm_jax.training import loop, pictures


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
  """Only the shared runs draw posteriors in the plane: it takes a third of such a short training."""
  picture = np.zeros((8, 8, 3), np.uint8)
  monkeypatch.setattr(pictures.Painter, "posterior_in_the_plane", lambda self, params: picture)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> pathlib.Path:
  """A finished run of `run_case.smoke()`."""
  folder = tmp_path_factory.mktemp("finished") / "run"
  loop.train(run_case.smoke(), folder)
  return folder


@pytest.fixture(scope="session")
def flow(tmp_path_factory) -> pathlib.Path:
  """A finished plain flow."""
  folder = tmp_path_factory.mktemp("flow") / "run"
  loop.train(run_case.smoke({"loss.consistency": "none"}), folder)
  return folder
