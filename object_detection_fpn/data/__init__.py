"""From bytes to `Batch`: record decoding, augmentation, resizing, batching; COCO conversion; the drawn data set."""
