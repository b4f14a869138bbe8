"""Detectors: parts joined in four verbs."""
