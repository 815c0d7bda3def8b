"""The transformer against a PyTorch implementation from torch.nn's own modules, random weights.

Independent of the golden files and of the published code. Needs PyTorch, the extra `torch`.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from mfm_jax import convert
from mfm_jax.models import dit
from mfm_jax.models.dit import DiT, DiTConfig

torch = pytest.importorskip("torch", reason="needs PyTorch, the extra `torch`")
nn, F = torch.nn, torch.nn.functional

WIDTH, DEPTH, HEADS, PATCH, SIZE, CHANNELS, CLASSES = 48, 3, 4, 2, 8, 4, 6


class Block(nn.Module):
  """adaLN-Zero, multi-head attention by torch's fused function, MLP."""

  def __init__(self):
    super().__init__()
    self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
    self.norm2 = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
    self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
    self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)})
    self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))

  def forward(self, h, c):
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c)[:, None].chunk(6, -1)
    y = self.norm1(h) * (1 + scale_a) + shift_a
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in self.attn["qkv"](y).chunk(3, -1))
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    h = h + gate_a * self.attn["proj"](y)
    y = self.norm2(h) * (1 + scale_m) + shift_m
    return h + gate_m * self.mlp["fc2"](F.gelu(self.mlp["fc1"](y), approximate="tanh"))


class SiT(nn.Module):
  """One time, a label; data at time 1."""

  def __init__(self):
    super().__init__()
    self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(CHANNELS, WIDTH, PATCH, PATCH)})
    self.t_embedder = nn.ModuleDict(
      {"mlp": nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))}
    )
    self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(CLASSES + 1, WIDTH)})
    grid = SIZE // PATCH
    self.pos_embed = nn.Parameter(torch.from_numpy(dit.sincos_positions(grid, grid, WIDTH))[None])
    self.blocks = nn.ModuleList([Block() for _ in range(DEPTH)])
    self.final_layer = nn.ModuleDict(
      {
        "linear": nn.Linear(WIDTH, PATCH**2 * CHANNELS),
        "adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH)),
      }
    )

  def forward(self, x, t, y):
    angles = t[:, None] * torch.exp(-np.log(10_000.0) * torch.arange(128) / 128)[None]
    time = self.t_embedder["mlp"](torch.cat([torch.cos(angles), torch.sin(angles)], -1))
    c = time + self.y_embedder["embedding_table"](y)
    h = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
    for block in self.blocks:
      h = block(h, c)
    shift, scale = self.final_layer["adaLN_modulation"](c)[:, None].chunk(2, -1)
    h = F.layer_norm(h, (WIDTH,), eps=1e-6) * (1 + scale) + shift
    out = (
      self.final_layer["linear"](h).unflatten(1, (SIZE // PATCH, -1)).unflatten(-1, (PATCH, PATCH, CHANNELS))
    )
    return torch.einsum("nhwpqc->nchpwq", out).flatten(4).flatten(2, 3)


def test_the_network_is_that_of_pytorch():
  torch.manual_seed(0)
  theirs = SiT().eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      if parameter is not theirs.pos_embed:
        parameter.add_(0.05 * torch.randn_like(parameter))
  rng = np.random.default_rng(0)
  x = rng.normal(size=(5, CHANNELS, SIZE, SIZE)).astype(np.float32)
  t, y = rng.uniform(size=5).astype(np.float32), np.array([0, 3, 5, CLASSES, 1])
  with torch.no_grad():
    expected = theirs(*map(torch.from_numpy, (x, t, y))).numpy()
  state = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
  params, _ = convert.to_params(state, "sit", DiTConfig())
  net = DiT(WIDTH, DEPTH, HEADS, PATCH, CLASSES)
  time, image = jnp.asarray(t), jnp.asarray(x).transpose(0, 2, 3, 1)
  nothing = jnp.zeros_like(time), jnp.zeros_like(image)
  ours = net.apply({"params": params}, time, time, image, *nothing, jnp.asarray(y), None)
  difference = np.abs(np.asarray(ours).transpose(0, 3, 1, 2) - expected).max()
  assert difference <= 1e-5 * np.abs(expected).max()
