"""BiFPN as pixel decoder: its equations in numpy."""

import numpy as np
import plain_maps
import tensorflow as tf

from deeplab_tf.layers.features import Feature
from deeplab_tf.pixel_decoders.bifpn_decoder import BiFPNDecoder, FusionNode, halve

FEATURES = (Feature('res2', 4, 3), Feature('res3', 8, 5), Feature('res4', 16, 4),
            Feature('res5', 32, 6))


def _halve(x):
  """The largest of 3x3 pixels around every other pixel."""
  padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
  height, width = x.shape[1:3]
  shifted = [padded[:, i:i + height, j:j + width] for i in range(3) for j in range(3)]
  return np.max(shifted, 0)[:, ::2, ::2]


def _node(node, inputs):
  """Fast normalized fusion, swish, depthwise and pointwise convolution, group norm."""
  weights = np.maximum(node.fusion_weights.numpy().astype(np.float64), 0)
  x = sum(weight * value for weight, value in zip(weights, inputs)) / (weights.sum() + 1e-4)
  x = x / (1 + np.exp(-x))
  kernel = np.asarray(node.depthwise.depthwise_kernel, np.float64)
  # Each channel with its own kernel, as one matrix with zeros elsewhere.
  diagonal = kernel * np.eye(kernel.shape[2])
  return plain_maps.block(node.pointwise, plain_maps.convolve(x, diagonal))


def _layer(layer, x4, x8, x16, x32):
  """Figure 2d of the paper, for four levels."""
  nearest = plain_maps.nearest
  down16 = _node(layer.top_down[0], [x16, nearest(x32, x16.shape[1:3])])
  down8 = _node(layer.top_down[1], [x8, nearest(down16, x8.shape[1:3])])
  y4 = _node(layer.top_down[2], [x4, nearest(down8, x4.shape[1:3])])
  y8 = _node(layer.bottom_up[0], [x8, down8, _halve(y4)])
  y16 = _node(layer.bottom_up[1], [x16, down16, _halve(y8)])
  y32 = _node(layer.bottom_up[2], [x32, _halve(y16)])
  return y4, y8, y16, y32


def test_layers_fuse_levels_in_both_directions():
  decoder = BiFPNDecoder(FEATURES, channels=64, mask_channels=7, num_layers=2)
  plain_maps.randomize(decoder)
  inputs = {f.name: np.random.default_rng(f.stride).standard_normal(
      [2, -(-50 // f.stride), -(-41 // f.stride), f.channels]).astype(np.float32) for f in FEATURES}
  levels = [plain_maps.block(project, inputs[f.name])
            for project, f in zip(decoder.input_projections, FEATURES)]
  for layer in decoder.fusion_layers:
    levels = _layer(layer, *levels)
  output = decoder(inputs)
  for found, expected in zip(output.levels, levels[:0:-1]):
    np.testing.assert_allclose(found, expected, atol=1e-4)
  np.testing.assert_allclose(output.mask_features,
                             plain_maps.block(decoder.mask_projection, levels[0]), atol=2e-4)
  assert decoder.mask_projection.kernel.shape == (3, 3, 64, 7)


def test_a_negative_weight_leaves_an_input_out():
  node = FusionNode(32, 2)
  np.testing.assert_array_equal(node.fusion_weights, [1, 1])
  assert node.depthwise.bias is None
  x, y = (tf.random.stateless_normal([1, 3, 4, 32], [0, i]) for i in range(2))
  node.fusion_weights.assign([2, -1])
  np.testing.assert_allclose(node([x, y]), node([x, 100 * x - y]), atol=1e-5)
  np.testing.assert_allclose(node([x, y]), _node(node, [x.numpy(), y.numpy()]), atol=1e-5)


def test_half_a_map_is_the_largest_of_nine_pixels_also_of_negative_ones():
  for height, width in ((4, 7), (1, 2), (5, 5)):
    x = np.random.default_rng(0).standard_normal([2, height, width, 3]).astype(np.float32) - 9
    np.testing.assert_array_equal(halve(tf.constant(x)), _halve(x))
