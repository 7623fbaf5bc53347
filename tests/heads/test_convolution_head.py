"""The convolutional prediction head."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.heads import convolution_head
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.protos import model_pb2


@pytest.mark.parametrize('kind', ['depthwise_separable_conv', 'standard_conv'])
def test_a_5x5_block_then_a_linear_map_with_bias(kind):
  head = convolution_head.ConvolutionHead(4, 6, 3, norm=BatchNorm, convolution=kind)
  head.last.bias.assign([1.0, 2.0, 3.0])
  image = tf.constant(np.random.default_rng(0).normal(size=(1, 11, 11, 4)), tf.float32)
  found = head(image)
  assert found.shape == (1, 11, 11, 3)
  hidden = head.block(image).numpy()
  assert hidden.min() == 0.0  # A relu ends the block.
  expected = np.einsum('bhwc,cd->bhwd', hidden, head.last.kernel.numpy()[0, 0]) + [1, 2, 3]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  # A pixel is seen from two pixels away and from no further.
  changed = image.numpy()
  changed[0, 5, 5] += 10
  differs = np.abs(head(tf.constant(changed)) - found).max(-1)[0] > 1e-6
  rows, columns = np.nonzero(differs)
  assert {*rows} <= {3, 4, 5, 6, 7} and {*columns} <= {3, 4, 5, 6, 7} and len(rows) > 9


def test_the_config_tells_channels_and_a_model_may_replace_those_of_the_output():
  options = model_pb2.HeadOptions(output_channels=5, head_channels=8)
  assert convolution_head.build(options, 4, BatchNorm).last.channels == 5
  assert convolution_head.build(options, 4, BatchNorm, 9).last.channels == 9
