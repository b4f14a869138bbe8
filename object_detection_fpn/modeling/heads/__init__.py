"""Heads: layers that turn the pooled features of a RoI into logits."""
