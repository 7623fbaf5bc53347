"""What a training says: progress, log, TensorBoard and pictures."""
