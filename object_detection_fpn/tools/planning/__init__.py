"""What a pipeline config needs and takes on a TPU, found by compiling its steps for one; no TPU is there."""
