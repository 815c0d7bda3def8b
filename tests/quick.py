"""Compilation without optimisation, for programs that a test runs once or a few times."""

import jax

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def options() -> dict | None:
  """`compiler_options` for `jax.jit` and `Lowered.compile`; on an accelerator the default ones."""
  return OPTIONS if jax.default_backend() == "cpu" else None


def jit(f):
  """`jax.jit(f)`, compiled about twice as fast, and slower to run. Not for use inside another jit."""
  return jax.jit(f, compiler_options=options())
