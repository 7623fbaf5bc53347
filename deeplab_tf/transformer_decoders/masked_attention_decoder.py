"""The transformer decoder of Mask2Former (section 3.2), with its prediction heads.

Learned queries read the pixel decoder's features of stride 32, 16, 8, 32, ... in turn, one in each
layer. A query reads only the pixels of the mask that it predicted before the layer. Predictions are
therefore made before the first and after each layer; in training all of them have a loss.
"""

from typing import Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import initializers
from deeplab_tf.layers.convolution import Convolution, Projection
from deeplab_tf.layers.masked_decoder import (
    MaskedDecoderLayer,
    MaskedDecoderOptions,
    Memory,
    attention_mask,
)
from deeplab_tf.layers.normalization import LayerNorm
from deeplab_tf.layers.position_embedding import sine_position_embedding
from deeplab_tf.layers.recomputation import recompute
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import dimensions

# Number of feature maps that the layers read in turn.
NUM_LEVELS = 3


class MaskedAttentionDecoder(keras.layers.Layer):
  """Turns feature maps into classes and masks of queries.

  Attributes:
    query_features: float32 [num_queries, channels], the queries before the first layer.
    query_positions: float32 [num_queries, channels], position embedding of the queries.
    level_embedding: float32 [levels, channels], which tells the features of the levels apart.
    input_projections: Projection of each level to the decoder's channels; empty if the levels are
      taken as they are.
    layers: The decoder layers.
    norm: Layer norm of the queries before the heads. The next layer reads the queries without it.
    class_head: From a query to its class logits.
    mask_head: The three layers from a query to its mask embedding.
  """

  def __init__(self, *, feature_channels: int, mask_channels: int, num_queries: int,
               num_classes: int, num_layers: int, options: MaskedDecoderOptions,
               force_input_projections: bool = False, recompute_layers: bool = False):
    """Initializes the layer.

    Args:
      feature_channels: Channels of the feature maps.
      mask_channels: Channels of the mask features.
      num_queries: Number of queries.
      num_classes: Number of classes without "no object".
      num_layers: Number of layers.
      options: Sizes and form of a layer.
      force_input_projections: Whether feature maps are projected even if they have the channels of
        the queries.
      recompute_layers: Whether training recomputes the activations of each layer in the backward
        pass.
    """
    super().__init__()
    channels = options.channels
    self.recompute_layers = recompute_layers
    self.query_features, self.query_positions, self.level_embedding = (
        self.add_weight(name, (count, channels), initializer=keras.initializers.RandomNormal(
            stddev=1.0)) for name, count in (
                ('query_features', num_queries), ('query_positions', num_queries),
                ('level_embedding', NUM_LEVELS)))
    needs_projections = force_input_projections or feature_channels != channels
    self.input_projections = [
        Convolution(feature_channels, channels,
                    kernel_initializer=keras.initializers.VarianceScaling(
                        1.0, 'fan_in', 'uniform'))
        for _ in range(NUM_LEVELS if needs_projections else 0)]
    self.layers = [MaskedDecoderLayer(options) for _ in range(num_layers)]
    self.norm = LayerNorm(channels)
    self.class_head = _linear(channels, num_classes + 1)
    self.mask_head = [_linear(channels, channels, 'relu'), _linear(channels, channels, 'relu'),
                      _linear(channels, mask_channels)]

  def call(self, levels: Sequence[tf.Tensor], mask_features: tf.Tensor, training: bool = False,
           all_predictions: bool = False) -> list[dict[str, tf.Tensor]]:
    """Predicts classes and masks.

    Args:
      levels: [batch, h, w, feature_channels] for stride 32, 16 and 8.
      mask_features: [batch, height, width, mask_channels] for stride 4.
      training: Whether all predictions are returned, and activations are recomputed if the decoder
        is to do so.
      all_predictions: Whether all predictions are returned at inference too.

    Returns:
      The predictions in the order of the layers, num_layers + 1 or the last alone, each with
      float32 `class_logits` [batch, num_queries, classes + 1] ("no object" last) and `mask_logits`
      [batch, height, width, num_queries].
    """
    memories = self._memories(levels)
    mask_features = tf.cast(mask_features, tf.float32)
    # The mask logits of a level are the logits at stride 4 resized (half-pixel centers, without
    # antialiasing). Resizing is linear, so they are products with resized features.
    constant_features = tf.stop_gradient(mask_features)
    resized = [_flat(resize_bilinear(constant_features, memory.size, 'half_pixel'))
               for memory in memories]
    every = training or all_predictions
    queries = tf.cast(self.query_features, self.compute_dtype)
    queries = tf.tile(queries[None], [dimensions(mask_features)[0], 1, 1])
    predictions = []
    for i, layer in enumerate(self.layers):
      embedding, prediction = self._predict(queries, mask_features if every else None)
      predictions += prediction
      level = i % NUM_LEVELS
      logits = tf.matmul(tf.stop_gradient(embedding), resized[level], transpose_b=True)
      queries = self._run(layer, queries, memories[level], logits, training)
    return predictions + self._predict(queries, mask_features)[1]

  def _memories(self, levels):
    """Returns what the queries attend to at each level."""
    memories = []
    for i, level in enumerate(levels):
      level = tf.cast(level, self.compute_dtype)
      if self.input_projections:
        level = self.input_projections[i](level)
      _, height, width, channels = dimensions(level)
      values = _flat(level) + tf.cast(self.level_embedding[i], level.dtype)
      positions = sine_position_embedding(height, width, channels)
      keys = values + tf.cast(tf.reshape(positions, [height * width, channels]), level.dtype)
      memories.append(Memory(values, keys, (height, width)))
    return memories

  def _run(self, layer, queries, memory, mask_logits, training):
    """Runs a decoder layer."""
    def run(queries, positions, values, keys, mask_logits):
      memory_of_run = Memory(values, keys, memory.size)
      return layer(queries, positions, memory_of_run, attention_mask(mask_logits))

    positions = tf.cast(self.query_positions, queries.dtype)
    inputs = (queries, positions, memory.values, memory.keys, mask_logits)
    return recompute(run, *inputs) if training and self.recompute_layers else run(*inputs)

  def _predict(self, queries, mask_features):
    """Returns the mask embeddings, and a list with the prediction or, without features, none."""
    queries = self.norm(queries)
    embedding = queries
    for layer in self.mask_head:
      embedding = layer(embedding)
    embedding = tf.cast(embedding, tf.float32)
    if mask_features is None:
      return embedding, []
    batch, height, width, _ = dimensions(mask_features)
    logits = tf.matmul(_flat(mask_features), embedding, transpose_b=True)
    return embedding, [{
        'class_logits': tf.cast(self.class_head(queries), tf.float32),
        'mask_logits': tf.reshape(logits, [batch, height, width, embedding.shape[1]]),
    }]


def _linear(in_channels, channels, activation='none'):
  """Returns a linear layer with PyTorch's initial weights."""
  return Projection(in_channels, channels, activation=activation,
                    kernel_initializer=initializers.torch_linear_kernel(),
                    bias_initializer=initializers.torch_linear_bias(in_channels))


def _flat(x):
  """Maps [batch, height, width, channels] to [batch, height * width, channels]."""
  batch, height, width, channels = dimensions(x)
  return tf.reshape(x, [batch, height * width, channels])
