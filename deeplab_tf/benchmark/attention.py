"""The axial and local attention of a network, layer by layer, to measure each form on its own."""

import collections
from typing import NamedTuple

import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.data import catalog
from deeplab_tf.layers.attention_records import AttentionRecord, recording
from deeplab_tf.layers.axial_attention import AxialAttention1D
from deeplab_tf.layers.local_attention import LocalAttention2D
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.position_sensitive import AttentionOptions, PositionSensitiveAttention


class AttentionForm(NamedTuple):
  """What makes the cost of an attention layer.

  Attributes:
    shape: Of its input, for one image: [rows, length, channels] of axial attention, whose rows
      are the lines across the axis, or [1, height, width, channels] of local attention.
    key_channels: Of queries and of keys, over all heads.
    value_channels: As above.
    num_heads: Number of heads.
    options: The form of the layer.
  """
  shape: tuple[int, ...]
  key_channels: int
  value_channels: int
  num_heads: int
  options: AttentionOptions

  def make(self) -> PositionSensitiveAttention:
    """Makes a layer of this form."""
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
  """Returns the forms of attention in a config's network and the number of layers of each.

  Args:
    config: ExperimentOptions.
    input_size: Height and width of the image.
  """
  # In a graph that never runs nothing is drawn or held.
  with tf.Graph().as_default():
    model = models.architecture(config).build(config, catalog.from_config(config))
    with recording() as records:
      model(tf.compat.v1.placeholder(tf.float32, [1, *input_size, 3]), training=False)
  return dict(collections.Counter(_form(record) for record in records
                                  if isinstance(record.layer, PositionSensitiveAttention)))


def _form(record: AttentionRecord) -> AttentionForm:
  layer, (x,) = record.layer, record.inputs
  keys, _, values = layer.sizes
  return AttentionForm(tuple(x.shape.as_list()), keys, values, layer.num_heads, layer.options)


def infer(layer: PositionSensitiveAttention, x: tf.Tensor) -> tf.Tensor:
  """Returns one number that needs the whole output of a layer at inference."""
  return tf.reduce_sum(layer(x, training=False))


def train(layer: PositionSensitiveAttention, x: tf.Tensor) -> tf.Tensor:
  """Returns one number that needs all gradients of a layer in training, its input's included."""
  with tf.GradientTape() as tape:
    tape.watch(x)
    loss = tf.reduce_sum(layer(x, training=True)**2)
  gradients = tape.gradient(loss, [x, *layer.trainable_variables])
  return loss + tf.add_n([tf.reduce_sum(g) for g in gradients])
