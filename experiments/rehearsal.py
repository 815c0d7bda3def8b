"""The ImageNet experiments at toy size, by the commands of the full size: minutes on two CPU cores.

python -m experiments.rehearsal --workdir=runs/rehearsal                     CIFAR-10 of $MFM_DATA_DIR
python -m experiments.rehearsal --workdir=runs/rehearsal --images=<folder of train/<class>/ and val/<class>/>

Pictures -> latents -> a Meta Flow Map -> samples -> FID -> steering and fine-tuning to a reward of CLIP ->
reports. Autoencoder, Inception network and CLIP are stand-ins in the published formats: figures mean nothing
but that everything fits together. Every command is printed; the same one goes on where it stopped.
"""

import json
import pathlib
import shlex
import subprocess
import sys
import time

from absl import flags

from experiments import cli
from mfm_jax.training import rehearsal

_WORKDIR = flags.DEFINE_string("workdir", "runs/rehearsal", "Folder of everything.")
_IMAGES = flags.DEFINE_string("images", "", "Pictures as ImageNet's; default CIFAR-10, of $MFM_DATA_DIR.")
_STEPS = flags.DEFINE_integer("steps", 300, "Of training.", lower_bound=1)


def main():
  """Runs the commands; returns their figures."""
  start, root = time.monotonic(), pathlib.Path(_WORKDIR.value)
  files = rehearsal.prepare(root / "materials", _IMAGES.value)
  out, seconds = {}, {"materials": round(time.monotonic() - start, 1)}
  for title, command in rehearsal.commands(root, files, steps=_STEPS.value).items():
    begun = time.monotonic()
    out[title] = _run(title, command)
    seconds[title] = round(time.monotonic() - begun, 1)
  print("\n".join(f"{seconds[title]:8.1f} s  {title}" for title in seconds), flush=True)
  reports = [str(root / name / "report.html") for name in ("run", "finetuned")]
  print(f"open {' and '.join(reports)} in a browser", flush=True)
  total = round(time.monotonic() - start, 1)
  return {"reports": reports, "seconds": seconds, "seconds_total": total, **rehearsal.figures(out)}


def _run(title, command):
  """The JSON of a command, whose output is shown as it comes."""
  print(f"\n== {title}\n{shlex.join(['python', '-m', *command])}", flush=True)
  last = ""
  with subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True) as process:
    for line in process.stdout or ():
      print(last, end="", flush=True)
      last = line
  if process.returncode:
    raise ValueError(f"every command must succeed; got status {process.returncode} of {title}, see above")
  return json.loads(last)


if __name__ == "__main__":
  cli.run(main)
