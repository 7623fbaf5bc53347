"""Feed-forward networks of transformer layers (Vaswani et al., "Attention Is All You Need")."""

from deeplab_tf.layers import initializers
from deeplab_tf.layers.convolution import Projection


def feed_forward_projections(channels: int, hidden_channels: int) -> tuple[Projection, Projection]:
  """Returns the two linear layers of max(0, x W_1 + b_1) W_2 + b_2 (equation 2).

  As in DETR's code, kernels start with Xavier's values and biases with those of PyTorch's linear
  layer.

  Args:
    channels: Channels of input and output.
    hidden_channels: Channels between the two layers.

  Returns:
    The layer to the hidden channels, with its ReLU, and the layer back.
  """
  return (Projection(channels, hidden_channels, activation='relu',
                     kernel_initializer='glorot_uniform',
                     bias_initializer=initializers.torch_linear_bias(channels)),
          Projection(hidden_channels, channels, kernel_initializer='glorot_uniform',
                     bias_initializer=initializers.torch_linear_bias(hidden_channels)))
