"""A headless Chromium, without a network, shared by the tests that look at pages."""

import pathlib
import shutil
import subprocess
import tempfile

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
FLAGS = (
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--hide-scrollbars",
  # No name resolves: what a page asks the network for fails, and the tests see it in the page.
  "--host-resolver-rules=MAP * ~NOTFOUND",
)
SECONDS = 120


def browse(page: pathlib.Path, *flags: str) -> str:
  """Opens a page with these flags in a profile of its own; returns standard output."""
  program = next(filter(None, map(shutil.which, NAMES)), None)
  if program is None:
    pytest.skip(f"no Chromium here (none of {', '.join(NAMES)}): the page is not looked at")
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    command = [program, *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
  return done.stdout
