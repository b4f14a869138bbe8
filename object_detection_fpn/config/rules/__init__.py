"""Combinations of fields that cannot work, a file per part of the config."""
