"""Models from flags, and pretrained weights."""
