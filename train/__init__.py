"""Training scripts and their parts: data, augmentation, configuration and the loop."""
