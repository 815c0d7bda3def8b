"""Pictures to the latents that imagenet_b2.py and imagenet_xl2.py train on; stops and goes on at any time.

python -m experiments.prepare_latents --source=<folder of train/<class>/ and val/<class>/> \\
    --vae=<folder of sd-vae-ft-mse> --out=latents --split=train
python -m experiments.prepare_latents --source=... --vae=... --out=latents --split=test
"""

from absl import flags

from experiments import cli
from mfm_jax.data import image_folder, latents
from mfm_jax.training import prepare

_SOURCE = flags.DEFINE_string("source", "", "Folder of pictures, or data_dir with imagenet2012 of TFDS.")
_VAE = flags.DEFINE_string("vae", "", "Folder or .safetensors file of the autoencoder.")
_OUT = flags.DEFINE_string("out", "", "Folder of the latents.")
_SPLIT = flags.DEFINE_enum("split", "train", list(image_folder.SPLITS), "Split; test is val of a folder.")
_SIZE = flags.DEFINE_integer("size", image_folder.SIZE, "Side of the centre crop.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", latents.DTYPES, "Of the moments.")
_BATCH = flags.DEFINE_integer("batch", 64, "Images in one call of the encoder.")
_SHARD = flags.DEFINE_integer("shard", 4096, "Images in a file.")
_DAMAGED = flags.DEFINE_integer("damaged", 0, "Unreadable pictures that may be; the next stands for each.")
_THREADS = flags.DEFINE_integer("threads", 8, "Threads that read and decode pictures.")


def main():
  """Encodes; returns counts and seconds."""
  return prepare.prepare(
    prepare.PrepareConfig(
      source=_SOURCE.value,
      vae=_VAE.value,
      out=_OUT.value,
      split=_SPLIT.value,
      size=_SIZE.value,
      dtype=_DTYPE.value,
      batch=_BATCH.value,
      shard=_SHARD.value,
      damaged=_DAMAGED.value,
      threads=_THREADS.value,
    )
  )


if __name__ == "__main__":
  cli.run(main)
