"""FaPN as pixel decoder: its equations in numpy."""

import numpy as np
import plain_maps
import tensorflow as tf

from deeplab_tf.layers.features import Feature
from deeplab_tf.pixel_decoders.fapn_decoder import (
    FaPNDecoder,
    FeatureAlignment,
    FeatureSelection,
)

FEATURES = (Feature('res2', 4, 3), Feature('res3', 8, 5), Feature('res4', 16, 4),
            Feature('res5', 32, 6))


def _map(*shape):
  return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def _select(layer, x):
  """Channels by a gate from their means, then a 1x1 convolution."""
  assert layer.gate.bias is None
  logits = x.mean((1, 2), keepdims=True) @ layer.gate.kernel.numpy()
  return plain_maps.block(layer.projection, x + x / (1 + np.exp(-logits)))


def _align(layer, finer, coarser):
  """The deformable convolution has a test of its own."""
  upsampled = plain_maps.bilinear(coarser, finer.shape[1:3])
  guide = plain_maps.block(layer.guide, np.concatenate([finer, 2 * upsampled], -1))
  aligned = layer.align(*(tf.constant(x, tf.float32) for x in (upsampled, guide))).numpy()
  return finer + np.maximum(aligned, 0)


def test_selection():
  layer, x = FeatureSelection(5, 64), _map(2, 3, 4, 5)
  np.testing.assert_allclose(layer(x), _select(layer, x), atol=1e-5)


def test_alignment():
  layer, finer, coarser = FeatureAlignment(64), _map(2, 5, 7, 64), _map(2, 3, 4, 64)
  plain_maps.randomize(layer, 0.1)
  np.testing.assert_allclose(layer(finer, tf.constant(coarser)), _align(layer, finer, coarser),
                             atol=1e-4)


def test_a_new_alignment_does_not_move_features():
  layer, finer, coarser = FeatureAlignment(64), _map(2, 6, 8, 64), _map(2, 3, 4, 64)
  upsampled = tf.constant(plain_maps.bilinear(coarser, (6, 8)), tf.float32)
  expected = finer + tf.nn.relu(tf.nn.conv2d(upsampled, layer.align.kernel / 2, 1, 'SAME'))
  np.testing.assert_allclose(layer(finer, tf.constant(coarser)), expected, atol=1e-4)


def test_levels_are_sums_of_selected_and_aligned_features():
  decoder = FaPNDecoder(FEATURES, channels=64, mask_channels=7)
  plain_maps.randomize(decoder, 0.1)
  inputs = {f.name: _map(2, -(-50 // f.stride), -(-41 // f.stride), f.channels) for f in FEATURES}
  sums = [plain_maps.block(decoder.coarsest_projection, inputs['res5'])]
  for select, align, name in zip(decoder.selections, decoder.alignments, ('res4', 'res3', 'res2')):
    sums.append(_align(align, _select(select, inputs[name]), sums[-1]))
  levels = [plain_maps.block(output, x, activated=True)
            for output, x in zip(decoder.outputs, sums)]
  output = decoder(inputs)
  for found, expected in zip((*output.levels, output.mask_features),
                             (*levels[:3], plain_maps.block(decoder.mask_projection, levels[3]))):
    np.testing.assert_allclose(found, expected, atol=5e-4)
