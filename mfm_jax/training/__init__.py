"""Training: configuration, state, optimiser, jitted step, checkpoints, logging and the loop."""
