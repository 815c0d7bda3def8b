"""Samplers: ODE and SDE integrators, K-step refinement, posterior draws. Each is one scan."""
