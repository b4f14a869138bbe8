"""What one does with a config: train, evaluate, export, predict."""
