"""Pages and figures: of a training, of an evaluation, of queries and of the scale stress test."""
