"""The stacked decoder visits the resolutions of the paper and fuses two earlier features."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers import hourglass
from deeplab_tf.layers.block_group import BlockGroupOptions
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.hourglass import Hourglass
from deeplab_tf.layers.normalization import BatchNorm


@pytest.mark.parametrize('stride, stacks, to_the_end, expected', [
    (16, 0, True, [8, 4]),
    (16, 1, True, [8, 4, 8, 16, 8, 4]),
    (16, 2, True, [8, 4, 8, 16, 8, 4, 8, 16, 8, 4]),
    (16, 1, False, [8, 4, 8, 16]),
    (16, 0, False, []),
    (32, 1, True, [16, 8, 4, 8, 16, 32, 16, 8, 4]),
    (8, 1, True, [4, 8, 4]),
])
def test_walk(stride, stacks, to_the_end, expected):
  assert hourglass.walk(stride, stacks, to_the_end) == expected


def test_a_step_takes_in_the_two_latest_features_of_its_stride():
  options = BlockGroupOptions(axial_beyond_stride=0)
  features = [Feature('stage2', 4, 32), Feature('stage3', 8, 64), Feature('stage5', 16, 256)]
  decoder = Hourglass(
      strides=hourglass.walk(16, 2), features=features, num_blocks=1, width=0.125, options=options,
      norm=functools.partial(BatchNorm))
  assert [f.name for f in decoder.outputs] == [f'decoder{i}' for i in range(1, 11)]
  assert [f.stride for f in decoder.outputs] == hourglass.walk(16, 2)
  assert decoder._inputs == [
      ['stage5', 'stage3'], ['decoder1', 'stage2'], ['decoder2', 'stage3', 'decoder1'],
      ['decoder3', 'stage5'], ['decoder4', 'decoder1', 'decoder3'],
      ['decoder5', 'stage2', 'decoder2'], ['decoder6', 'decoder3', 'decoder5'],
      ['decoder7', 'stage5', 'decoder4'], ['decoder8', 'decoder5', 'decoder7'],
      ['decoder9', 'decoder2', 'decoder6']]
  rng = np.random.default_rng(0)
  inputs = {f.name: tf.constant(rng.standard_normal((1, 64 // f.stride + 1, 48 // f.stride + 1,
                                                     f.channels)), tf.float32) for f in features}
  outputs, memory = decoder(inputs)
  assert memory is None
  assert set(inputs) == {f.name for f in features}  # The caller's dictionary stays as it is.
  for f in decoder.outputs:
    assert outputs[f.name].shape == [1, 64 // f.stride + 1, 48 // f.stride + 1, f.channels]
  # Without the decoder's own blocks (their last gamma is 0) a step is the sum of what it takes in.
  fused = decoder.fuses[9]([outputs[name] for name in decoder._inputs[9]], (17, 13))
  np.testing.assert_allclose(outputs['decoder10'], tf.nn.relu(fused), atol=1e-5)
