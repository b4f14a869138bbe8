"""How good detections are: metrics, the loop that computes them over a dataset, and pictures to look at."""
