"""What says which processes join; several of them without a cluster are in test_sharding.py."""

import pytest

from mfm_jax.training import distributed


@pytest.mark.parametrize(
  ("variables", "message"),
  [
    (
      {"JAX_NUM_PROCESSES": "2"},
      "must be set together, or --distributed given; got JAX_NUM_PROCESSES alone",
    ),
    # As GKE sets it: without an error each process would train alone, all of them in one folder.
    ({"JAX_COORDINATOR_ADDRESS": "x:1"}, "got JAX_COORDINATOR_ADDRESS alone"),
    (
      {"JAX_COORDINATOR_ADDRESS": "x:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
      "JAX_NUM_PROCESSES must be a whole number; got 'two'",
    ),
    (
      {"JAX_COORDINATOR_ADDRESS": "x:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
      "JAX_PROCESS_ID must be less than JAX_NUM_PROCESSES; got 2 of 2",
    ),
  ],
)
def test_half_an_environment_is_an_error(variables, message, monkeypatch):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=message):
    distributed.join()


def test_a_cluster_that_is_not_there_is_an_error():
  with pytest.raises(ValueError, match="--distributed must find a cluster; got none"):
    distributed.join(detect=True)


def test_alone_a_process_does_everything_itself():
  distributed.join()
  assert distributed.is_primary()
  with pytest.raises(ZeroDivisionError):
    distributed.on_primary(lambda: 1 / 0)
  assert distributed.agreed(7) == 7
  assert [part.tolist() for part in distributed.shared(lambda i: [float(i)], [(1,), (1,)])] == [[0.0], [1.0]]
