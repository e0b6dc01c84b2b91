"""What a training run survives."""
