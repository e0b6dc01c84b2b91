"""Time, memory and FLOPs: of training, of inference, and of a collapse."""
