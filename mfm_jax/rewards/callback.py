"""Rewards that are Python functions of NumPy arrays: black boxes that compiled programs call on the host."""

import contextlib
import importlib
import inspect
import logging
import operator
import queue
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mfm_jax import checks
from mfm_jax.types import Array, Cond, PyTree, Reward

GRADIENT_FREE = "mfm_gf, search, smc with mfm_gf, best_of_n"


class RewardError(ValueError):
  """A Python function that breaks the rules of a reward; its message is one line."""


class _Late(Exception):
  """No answer in time; a class of its own, as functions raise TimeoutError of theirs."""


def callback(function: Callable, *, name: str = "reward", timeout: float = 0.0) -> Reward:
  """A Python function as a reward, also in `jit`, `scan` and `vmap`; its attribute `differentiable` is False.

  The function should depend on nothing but its arguments, and not on how samples are batched: how often it is
  called, and with how many, is up to the compiler. It must not call JAX, which may be waiting for it.

  Args:
    function: x -> numbers (n,), x a NumPy float32 array (n, ...) in data space, its own to write to; or
      (x, cond) -> the same, where the second argument has no default or is called `cond`: the conditioning,
      a dict of NumPy arrays (n,), or None.
    name: what errors call it.
    timeout: seconds that a call may take; 0 waits for ever.

  Returns:
    a reward, float32. Differentiating it raises a ValueError. In a compiled program an error of the function
    reaches the caller inside a `jax.errors.JaxRuntimeError`; `reported` makes it a RewardError again.

  Raises:
    ValueError: a function that takes neither one nor two arguments; a timeout below 0.
    RewardError: at the call, a function that raises, that returns another shape or what are no numbers, or
      that does not return in time.
  """
  checks.at_least("timeout", timeout, 0)
  takes_cond = _takes_cond(function, name)

  def checked(x: np.ndarray, cond: PyTree) -> np.ndarray:
    try:
      arguments = (x, cond) if takes_cond else (x,)
      values = np.asarray(_within(timeout, function, *arguments) if timeout else function(*arguments))
    except _Late:
      raise RewardError(f"reward {name!r} must return within {timeout:g} s; got no answer") from None
    except Exception as error:
      line = " ".join(f"{type(error).__name__}: {error}".split())
      raise RewardError(f"reward {name!r} must not raise; got {line}") from error
    if values.dtype.kind not in "biuf":
      raise RewardError(f"reward {name!r} must return numbers; got dtype {values.dtype}")
    if values.shape != x.shape[:1]:
      raise RewardError(f"reward {name!r} must return shape {x.shape[:1]}; got {values.shape}")
    return values.astype(np.float32)

  @jax.custom_jvp
  def call(x: Array, cond: Cond) -> Array:
    ranks = jax.tree.map(jnp.ndim, (x, cond))

    def on_host(x, cond) -> np.ndarray:
      """Axes that `vmap` has put in front of the batch become part of it: one call of the function."""
      lead = np.shape(x)[: np.ndim(x) - ranks[0] + 1]

      def flat(leaf, rank: int) -> np.ndarray:
        leaf = np.array(leaf)
        return leaf.reshape(-1, *leaf.shape[leaf.ndim - rank + 1 :])

      return checked(*jax.tree.map(flat, (x, cond), ranks)).reshape(lead)

    like = jax.ShapeDtypeStruct(x.shape[:1], jnp.float32)
    leaves = jax.tree.leaves((x, cond))
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
      return jnp.asarray(on_host(x, cond))  # outside of a program an error needs no way around JAX
    return jax.pure_callback(on_host, like, x, cond, vmap_method="broadcast_all")

  @call.defjvp
  def no_gradient(primals, tangents):
    del primals, tangents
    raise ValueError(
      f"reward {name!r} is a Python function and has no gradient: the method must be one that needs none "
      f"({GRADIENT_FREE}); got one that differentiates the reward"
    )

  def reward(x: Array, cond: Cond = None) -> Array:
    return call(jnp.asarray(x).astype(jnp.float32), cond if takes_cond else None)

  vars(reward)["differentiable"] = False
  return reward


def _within(timeout: float, function: Callable, *arguments: Any) -> Any:
  """function(*arguments), in a thread of its own; _Late where it takes longer.

  Python cannot end the thread: being a daemon it does not keep the program from ending.
  """
  answer: queue.Queue = queue.Queue()

  def work():
    try:
      answer.put((function(*arguments), None))
    except BaseException as error:  # one that is not put there would look like no answer
      answer.put((None, error))

  threading.Thread(target=work, daemon=True).start()
  try:
    value, error = answer.get(timeout=timeout)
  except queue.Empty:
    raise _Late from None
  if error is not None:
    raise error
  return value


@contextlib.contextmanager
def reported() -> Iterator[None]:
  """Inside, a RewardError of a compiled program is raised as such, instead of JAX's error that quotes it.

  The program's results must be waited for inside.
  """
  # JAX logs the traceback that it also puts into its error.
  logger = logging.getLogger("jax._src.callback")
  was, logger.disabled = logger.disabled, True
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    found = re.findall(r"\bRewardError: (.*)", str(error))
    if not found:
      raise
    raise RewardError(found[-1]) from error
  finally:
    logger.disabled = was


def load_callable(path: str) -> Callable:
  """What "package.module:function" names.

  Raises:
    ValueError: another form; a module that cannot be imported; a name that it lacks, or that is not callable.
  """
  module_name, _, name = path.partition(":")
  if not (module_name and name):
    raise ValueError(f"a callable must be written package.module:function; got {path!r}")
  try:
    module = importlib.import_module(module_name)
  except Exception as error:  # a module may fail in any way
    line = " ".join(f"{type(error).__name__}: {error}".split())
    raise ValueError(f"{path!r} must name a module that can be imported; got {line}") from error
  try:
    found = operator.attrgetter(name)(module)
  except AttributeError as error:
    raise ValueError(f"{path!r} must name something in the module; got {error}") from error
  if not callable(found):
    raise ValueError(f"{path!r} must name a callable; got {type(found).__name__}")
  return found


def _takes_cond(function: Callable, name: str) -> bool:
  try:
    signature = inspect.signature(function)
  except ValueError:  # of some functions written in C
    return False
  positional = [
    p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
  ]
  takes_cond = len(positional) > 1 and (
    positional[1].default is inspect.Parameter.empty or positional[1].name == "cond"
  )
  try:
    signature.bind(*(None,) * (1 + takes_cond))
  except TypeError:
    raise ValueError(f"reward {name!r} must take (x) or (x, cond); got {signature}") from None
  return takes_cond
