"""What the training data of a config are like, and whether its anchors and limits fit them."""
