"""Pure functions on tensors: boxes, anchors, matching, sampling, suppression, pooling of regions."""
