"""The sine position embedding: its equation, its channels, and recorded numbers."""

import math

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.layers.position_embedding import sine_position_embedding
from deeplab_tf.user_errors import ConfigError


@pytest.mark.parametrize('height,width,channels', [(5, 7, 16), (1, 1, 4), (3, 9, 20)])
@pytest.mark.parametrize('normalize', [True, False])
def test_channels_follow_the_equation(height, width, channels, normalize):
  n = channels // 2
  expected = np.zeros([height, width, channels])
  for row in range(height):
    for column in range(width):
      y, x = row + 1, column + 1
      if normalize:
        y, x = y / (height + 1e-6) * 2 * math.pi, x / (width + 1e-6) * 2 * math.pi
      for i in range(n):
        period = 10000 ** (2 * (i // 2) / n)
        wave = math.cos if i % 2 else math.sin
        expected[row, column, i] = wave(y / period)
        expected[row, column, n + i] = wave(x / period)
  found = sine_position_embedding(height, width, channels, normalize=normalize)
  assert found.dtype == tf.float32 and found.shape == (height, width, channels)
  np.testing.assert_allclose(found, expected, atol=2e-6)


def test_temperature_sets_the_longest_period():
  found = sine_position_embedding(3, 3, 8, normalize=False, temperature=100.0)
  np.testing.assert_allclose(found[:, 0, 2], np.sin(np.arange(1, 4) / 10), atol=1e-6)


def test_sizes_unknown_while_tracing_give_the_same_numbers():
  embed = tf.function(lambda h, w: sine_position_embedding(h, w, 12),
                      input_signature=[tf.TensorSpec([], tf.int32)] * 2)
  np.testing.assert_allclose(embed(4, 6), sine_position_embedding(4, 6, 12), atol=1e-6)


@pytest.mark.parametrize('channels', [0, 2, 6, 7])
def test_other_channels_are_refused(channels):
  with pytest.raises(ConfigError, match=f'{channels} channels are not a multiple of 4'):
    sine_position_embedding(3, 3, channels)


@pytest.mark.parity
@pytest.mark.parametrize('case', ['sine_position_embedding_0', 'sine_position_embedding_1',
                                  'sine_position_embedding_unnormalised'])
def test_recorded_embeddings(case):
  arrays = np.load(shared.path('parity', 'mask2former', 'ops.npz'))
  height, width = (int(n) for n in arrays[f'{case}/shape_hw'])
  found = sine_position_embedding(height, width, 2 * int(arrays[f'{case}/num_pos_feats']),
                                  normalize='unnormalised' not in case)
  np.testing.assert_allclose(found, arrays[f'{case}/output_nchw'][0].transpose(1, 2, 0), atol=2e-6)
