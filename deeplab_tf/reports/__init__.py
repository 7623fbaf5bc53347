"""HTML reports and figures of training, evaluation, queries and the scale stress test."""
