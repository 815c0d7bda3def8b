"""Start noise of several draws: each draw is standard normal, their joint law is the scheme."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfm_jax.sampling import noise

CONTEXTS = 4000


def draw(scheme, draws, size, seed=0, contexts=CONTEXTS):
  x_t = jnp.zeros((contexts, size))
  e = jax.jit(lambda key: noise.normals(key, x_t, draws=draws, scheme=scheme))(jax.random.key(seed))
  return np.asarray(e)


@pytest.mark.parametrize("scheme", noise.SCHEMES)
@pytest.mark.parametrize(("draws", "size"), [(8, 2), (5, 3)])
def test_every_draw_is_standard_normal(scheme, draws, size):
  """Each draw and coordinate by itself, over the contexts; contexts are independent of each other."""
  e = draw(scheme, draws, size)
  assert e.shape == (CONTEXTS, draws, size)
  for i in range(draws):
    for j in range(size):
      assert stats.kstest(e[:, i, j], "norm").pvalue > 1e-4 / (draws * size)
  product = e[:, :, :, None] * e[:, :, None, :] - np.eye(size)
  assert (np.abs(product.mean(0)) < 5 * product.std(0) / np.sqrt(CONTEXTS)).all()
  neighbours = (e[1:] * e[:-1]).mean(0)
  assert (np.abs(neighbours) < 5 / np.sqrt(CONTEXTS)).all()


def test_antithetic_draws_come_in_pairs():
  e = draw("antithetic", 5, 3, contexts=4)
  np.testing.assert_array_equal(e[:, 0:4:2], -e[:, 1:4:2])
  assert (e[:, 4] != -e[:, 3]).all()


@pytest.mark.parametrize(("draws", "size"), [(3, 4), (4, 4), (6, 4)])
def test_orthogonal_draws_are_at_right_angles_within_a_block(draws, size):
  e = draw("orthogonal", draws, size, contexts=16)
  block = e[:, : min(draws, size)]
  gram = block @ block.swapaxes(1, 2)
  off = gram - np.einsum("bii->bi", gram)[:, :, None] * np.eye(len(gram[0]))
  np.testing.assert_allclose(off, 0.0, atol=1e-4)


def test_a_sobol_net_has_one_point_in_every_cell():
  """8 points of a net in two dimensions: one in each of the cells 8 x 1, 4 x 2, 2 x 4 and 1 x 8."""
  u = stats.norm.cdf(draw("sobol", 8, 2, contexts=20))
  for rows, columns in ((8, 1), (4, 2), (2, 4), (1, 8)):
    cells = np.floor(u[..., 0] * rows) * columns + np.floor(u[..., 1] * columns)
    np.testing.assert_array_equal(np.sort(cells, axis=1), np.tile(np.arange(8.0), (20, 1)))


def test_the_ends_of_the_sobol_grid_are_finite():
  ends = noise._quantile(jnp.array([0, 2**32 - 1], jnp.uint32))
  np.testing.assert_allclose(ends, stats.norm.ppf([2.0**-24, 1 - 2.0**-24]), rtol=1e-5)


@pytest.mark.parametrize(("scheme", "share"), [("antithetic", 0.01), ("sobol", 0.5)])
def test_the_mean_of_the_draws_varies_less(scheme, share):
  independent = draw("independent", 8, 2).mean(1).std()
  assert draw(scheme, 8, 2).mean(1).std() < share * independent


def test_images_keep_their_shape_and_dtype():
  x_t = jnp.zeros((2, 4, 3, 1), jnp.bfloat16)
  for scheme in noise.SCHEMES:
    e = noise.normals(jax.random.key(0), x_t, draws=3, scheme=scheme)
    assert e.shape == (2, 3, 4, 3, 1)
    assert e.dtype == jnp.bfloat16
    assert jnp.isfinite(e.astype(jnp.float32)).all()


@pytest.mark.parametrize(
  ("shape", "options", "message"),
  [
    ((1, 2), {"draws": 0, "scheme": "sobol"}, "draws must be at least 1; got 0"),
    ((1, 2), {"draws": 2, "scheme": "halton"}, "scheme must be one of independent, antithetic, orthogonal"),
    ((1, 30_000), {"draws": 2, "scheme": "sobol"}, "scheme=sobol takes at most 21201 coordinates; got 30000"),
  ],
)
def test_bad_arguments(shape, options, message):
  with pytest.raises(ValueError, match=message):
    noise.normals(jax.random.key(0), jnp.zeros(shape), **options)
