"""Window attention is the paper's equation, in numpy, on maps of any size."""

import mask2former_weights as reference
import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers.attention_records import recording
from deeplab_tf.layers.window_attention import WindowAttention, relative_position_index, shift_mask
from deeplab_tf.user_errors import ConfigError


def _layer(channels=6, num_heads=2, window_size=3, shift=0):
  layer = WindowAttention(channels, num_heads, window_size, shift)
  rng = np.random.default_rng(0)
  for variable in layer.variables:
    variable.assign(rng.normal(0, 0.7, variable.shape))
  return layer


def _attention(layer, x):
  """The layer's output, pixel by pixel.

  A pixel attends to those of its window. The first window begins at (shift, shift). The pixels
  before it are in the last window, where they come to lie when the map is rolled, but a bias of
  -100 separates the two.
  """
  side, shift, heads = layer.window_size, layer.shift, layer.num_heads
  height, width, channels = x.shape
  full = [-(-n // side) * side for n in (height, width)]
  padded = np.zeros([*full, channels])
  padded[:height, :width] = x
  tokens = padded @ layer.qkv.kernel.numpy() + layer.qkv.bias.numpy()
  table = layer.position_bias.numpy().reshape(2 * side - 1, 2 * side - 1, heads)
  y = np.zeros([height, width, channels])
  for i in range(height):
    for j in range(width):
      # Position after rolling, and the rolled positions of the window.
      rolled = (i - shift) % full[0], (j - shift) % full[1]
      corner = [n // side * side for n in rolled]
      logits, values = [], []
      for row in range(corner[0], corner[0] + side):
        for column in range(corner[1], corner[1] + side):
          source = (row + shift) % full[0], (column + shift) % full[1]
          query, key, value = (tokens[p].reshape(3, heads, -1)[k]
                               for p, k in (((i, j), 0), (source, 1), (source, 2)))
          logit = (query * key).sum(-1) / np.sqrt(channels / heads)
          logit += table[rolled[0] - row + side - 1, rolled[1] - column + side - 1]
          together = all((a < shift) == (b < shift) for a, b in zip((i, j), source))
          logits.append(logit + (0 if together else -100))
          values.append(value)
      logits = np.array(logits)
      weights = np.exp(logits - logits.max(0))
      weights /= weights.sum(0)
      y[i, j] = (weights[..., None] * values).sum(0).reshape(-1)
  return y @ layer.projection.kernel.numpy() + layer.projection.bias.numpy()


@pytest.mark.parametrize('window_size, shift', [(3, 0), (3, 1), (4, 2)])
@pytest.mark.parametrize('size', [(8, 12), (7, 10), (3, 4), (1, 2)], ids=str)
def test_attention_is_the_equation(window_size, shift, size):
  layer = _layer(window_size=window_size, shift=shift)
  x = np.random.default_rng(1).normal(size=[2, *size, 6])
  y = layer(tf.constant(x, tf.float32))
  np.testing.assert_allclose(y, [_attention(layer, image) for image in x], atol=1e-4)


def test_sizes_unknown_while_tracing_give_the_same():
  layer = _layer(shift=1)
  traced = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 6])])
  for size in ((2, 7, 10), (1, 3, 3)):
    x = tf.random.stateless_normal([*size, 6], [0, 1])
    np.testing.assert_allclose(traced(x), layer(x), atol=1e-5)


def test_static_sizes_give_static_shapes():
  layer = _layer(shift=1)
  graph = tf.function(layer).get_concrete_function(tf.TensorSpec([2, 7, 10, 6])).graph
  assert graph.outputs[0].shape == (2, 7, 10, 6)
  assert not [op for op in graph.get_operations() if op.type == 'Shape']


@pytest.mark.parity
def test_the_position_index_is_that_of_the_pytorch_code():
  arrays, _ = reference.operation('swin_relative_position_index')
  np.testing.assert_array_equal(relative_position_index(7), arrays['window7'])
  np.testing.assert_array_equal(relative_position_index(12)[0], arrays['window12_first_row'])


@pytest.mark.parity
def test_the_shift_mask_is_that_of_the_pytorch_code():
  arrays, _ = reference.operation('swin_stage')
  window_size = int(arrays['window'])
  height, width = (-(-int(n) // window_size) * window_size for n in arrays['hw'])
  mask = shift_mask(height, width, window_size, window_size // 2)
  np.testing.assert_array_equal(mask, arrays['shift_mask'])


def test_only_pairs_across_the_border_of_the_map_are_masked():
  mask = shift_mask(6, 9, 3, 1).numpy()
  assert mask.shape == (6, 9, 9)
  blocked = (mask < 0).sum((1, 2))
  # Neither at the bottom nor on the right; on the right; ...; the corner has four parts.
  np.testing.assert_array_equal(blocked, [0, 0, 36, 36, 36, 81 - 16 - 4 - 4 - 1])
  # A map of one window has all its pairs in the corner.
  np.testing.assert_array_equal(shift_mask(3, 3, 3, 1)[0], mask[-1])


def test_channels_that_do_not_divide_into_heads_are_refused():
  with pytest.raises(ConfigError, match='7 channels do not divide into 2 heads'):
    WindowAttention(7, 2, 3)


def test_calls_are_reported():
  layer = _layer()
  with recording() as records:
    layer(tf.zeros([1, 3, 3, 6]))
  assert [record.layer for record in records] == [layer]
