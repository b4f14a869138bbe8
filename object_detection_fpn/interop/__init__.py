"""Weights of other packages: name maps and layout changes, nothing else."""
