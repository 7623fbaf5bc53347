"""Finds the axial and local attention layers of a network, to measure each kind separately."""

import collections
from typing import NamedTuple

import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.data import catalog
from deeplab_tf.layers.axial_attention import AxialAttention1D
from deeplab_tf.layers.local_attention import LocalAttention2D
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.position_sensitive import AttentionOptions, PositionSensitiveAttention


class AttentionForm(NamedTuple):
  """The parameters that determine the cost of an attention layer.

  Attributes:
    shape: Shape of the input for one image: [rows, length, channels] for axial attention, where
      rows are the lines along the axis, or [1, height, width, channels] for local attention.
    key_channels: Number of channels of queries and of keys, over all heads.
    value_channels: Number of channels of values, over all heads.
    num_heads: Number of heads.
    options: Options of the layer.
  """
  shape: tuple[int, ...]
  key_channels: int
  value_channels: int
  num_heads: int
  options: AttentionOptions

  def make(self) -> PositionSensitiveAttention:
    """Returns a layer of this form."""
    kind = LocalAttention2D if self.options.kind == 'local' else AxialAttention1D
    return kind(self.shape[-1], self.key_channels, self.value_channels, self.num_heads, BatchNorm,
                options=self.options)

  def __str__(self) -> str:
    size = 'x'.join(str(n) for n in self.shape[1:-1])
    size += f' ({self.shape[0]} rows)' if self.options.kind == 'axial' else ''
    span = f'span {self.options.span}' if self.options.span else 'whole axis'
    return (f'{self.options.kind} {size}, {self.shape[-1]}-{self.key_channels}-'
            f'{self.value_channels} channels, {self.num_heads} heads, {span}')


def find(config, input_size: tuple[int, int]) -> dict[AttentionForm, int]:
  """Returns the attention forms in the network of a config, with the number of layers of each.

  Args:
    config: ExperimentOptions.
    input_size: Height and width of the image.
  """
  found = collections.Counter()
  # In a graph that never runs, variables have no values and take no time or memory.
  with tf.Graph().as_default():
    model = models.architecture(config).build(config, catalog.from_config(config))
    layers = [layer for layer in model.submodules
              if isinstance(layer, PositionSensitiveAttention)]
    for layer in layers:
      layer.call = _counting_call(layer, found)
    model(tf.compat.v1.placeholder(tf.float32, [1, *input_size, 3]), training=False)
  return dict(found)


def _counting_call(layer, found):
  call = layer.call

  def counting_call(x, training=False):
    keys, _, values = layer.sizes
    found[AttentionForm(tuple(x.shape.as_list()), keys, values, layer.num_heads,
                        layer.options)] += 1
    return call(x, training=training)

  return counting_call


def infer(layer: PositionSensitiveAttention, x: tf.Tensor) -> tf.Tensor:
  """Returns a scalar that depends on the whole output of a layer at inference."""
  return tf.reduce_sum(layer(x, training=False))


def train(layer: PositionSensitiveAttention, x: tf.Tensor) -> tf.Tensor:
  """Returns a scalar that depends on all gradients of a layer and its input in training."""
  with tf.GradientTape() as tape:
    tape.watch(x)
    loss = tf.reduce_sum(layer(x, training=True)**2)
  gradients = tape.gradient(loss, [x, *layer.trainable_variables])
  return loss + tf.add_n([tf.reduce_sum(g) for g in gradients])
