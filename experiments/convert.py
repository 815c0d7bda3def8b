"""Published PyTorch weights to a run folder, or back.

python -m experiments.convert --from=ckpts/mfm-xl2.pt --kind=mfm --guidance_scales=2.5 --to=runs/mfm_xl2
python -m experiments.convert --from=SiT-XL-2-256.pt --kind=sit --to=runs/sit_xl2
python -m experiments.convert --from=ckpts/mfm-xl2.pt --kind=mfm --guidance_scales=2.5 --check
python -m experiments.convert --from=runs/mfm_xl2 --kind=mfm --to=mfm-xl2.safetensors

A converted run works in sample, and with a reward on latents in steer and finetune (which needs --data).
"""

import pathlib

from absl import flags

from experiments import cli
from mfm_jax.convert.names import KINDS
from mfm_jax.training import converted
from mfm_jax.training.converted import DATA_AT, Weights

_FROM = flags.DEFINE_string("from", "", "File of weights (.safetensors, .pt), or a run folder.")
_TO = flags.DEFINE_string("to", "", "New run folder, or a .safetensors file.")
_KIND = flags.DEFINE_enum("kind", "", ["", *KINDS], "What the weights are of.")
_CHECK = flags.DEFINE_bool("check", False, "Read and report, with a table of tensors; write nothing.")
_ENTRY = flags.DEFINE_string("entry", "", "State dict of a .pt that holds several; default ema.")
_EMA = flags.DEFINE_string("ema", "", "Of a run folder: decay of the average, raw for none.")
_HEADS = flags.DEFINE_integer("heads", 0, "Attention heads; 0: of the published size.")
_ENCODER = flags.DEFINE_integer("encoder_depth", 0, "Blocks of the encoder; 0: of the published size.")
_GUIDANCE = flags.DEFINE_list("guidance_scales", [], "mfm: trained guidance scales beside 1.")
_AT_ONE = flags.DEFINE_bool("trained_at_one", False, "mfm: labels were trained at scale 1 too.")
_DATA_AT = flags.DEFINE_enum("data_at", "", ["", *DATA_AT], "Time of data in the network; default by kind.")
_PRESERVE = flags.DEFINE_bool("preserve_at_zero", False, "mfm: trained with preserve_t_cond_0.")
_RESIDUAL = flags.DEFINE_bool("residual_context", False, "mfm: trained with use_parametrization.")
_SCALE = flags.DEFINE_float("latent_scale", 0.18215, "Latents were (latent - shift) * scale.")
_SHIFT = flags.DEFINE_float("latent_shift", 0.0, "See --latent_scale.")
_DATA = flags.DEFINE_string("data", "", "For finetune: latents, or a folder of train.npz and test.npz.")


def main():
  """Converts; returns the report."""
  for flag in (_FROM, _KIND):
    if not flag.value:
      raise ValueError(f"--{flag.name} must be given; got none")
  if not (_TO.value or _CHECK.value):
    raise ValueError("--to must name a run folder or a .safetensors file (or pass --check); got none")
  if pathlib.Path(_FROM.value).is_dir():
    if _CHECK.value:
      raise ValueError("--check must be absent for a run folder: it reads files of weights")
    return converted.from_run(_FROM.value, _TO.value, _KIND.value, ema=_EMA.value)
  weights = Weights(
    kind=_KIND.value,
    heads=_HEADS.value,
    encoder_depth=_ENCODER.value,
    guidance_scales=tuple(map(float, _GUIDANCE.value)),
    trained_at_one=_AT_ONE.value,
    data_at=_DATA_AT.value,
    preserve_at_zero=_PRESERVE.value,
    residual_context=_RESIDUAL.value,
    latent_scale=_SCALE.value,
    latent_shift=_SHIFT.value,
    data=_DATA.value,
  )
  if not _CHECK.value:
    return converted.to_run(_FROM.value, _TO.value, weights, entry=_ENTRY.value)
  return converted.check(_FROM.value, weights, entry=_ENTRY.value)


if __name__ == "__main__":
  cli.run(main)
