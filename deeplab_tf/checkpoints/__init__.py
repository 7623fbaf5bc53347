"""Reading and writing weights."""

from deeplab_tf.checkpoints.reference import load_reference_weights

__all__ = ['load_reference_weights']
