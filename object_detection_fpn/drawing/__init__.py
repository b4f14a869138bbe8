"""Boxes and sheets of images."""
