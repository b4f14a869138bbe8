"""Training: optimizers and schedules, checkpoints, the loop."""
