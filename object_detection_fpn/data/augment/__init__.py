"""Augmentations: one function each, from an `Example` and a seed to a changed `Example`."""
