"""Backbones: models whose call gives `{level: features}`."""
