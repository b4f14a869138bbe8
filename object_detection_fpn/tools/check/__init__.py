"""Whether training would work: the model, its arithmetic and memory, and one real step."""
