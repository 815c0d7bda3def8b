"""What this machine has for the project: versions, devices, compile cache, data, disk; and what is broken.

python -m experiments.doctor

Exit status 2 when something that is required is broken; the last lines say what.
"""

import json
import sys

try:
  from experiments import cli
  from mfm_jax.training import doctor
  from mfm_jax.training.terminal import coloured
except ImportError as error:  # before anything can be examined
  print(f"error: {error}; install what is required: make setup, or pip install -e .", file=sys.stderr)
  sys.exit(2)


def main():
  """Examines, prints; returns what it found."""
  found = doctor.examine()
  print(doctor.text(found))
  for note in found["notes"]:
    print(coloured("note:", "yellow", sys.stdout), note)
  if found["problems"]:
    print(json.dumps(found), flush=True)
    raise ValueError(f"broken: {'; '.join(found['problems'])}")
  print(coloured("all that is required works", "green", sys.stdout))
  return found


if __name__ == "__main__":
  cli.run(main)
