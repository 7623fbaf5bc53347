"""Output of a training: progress line, log, TensorBoard curves and pictures."""
