"""The transformer decoder of Mask2Former (section 3.2), with its prediction heads.

Learned queries read the pixel decoder's features of stride 32, 16, 8, 32, ... in turn, one in each
layer. A query reads only the pixels of the mask that it predicted before the layer. Predictions are
therefore made before the first and after each layer; in training all of them have a loss.

Options give the ablations of table 4 and, together, MaskFormer's decoder (Cheng et al., NeurIPS
2021): queries that start at zero read all pixels of one feature map of the backbone.
"""

import enum
from typing import Optional, Sequence

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


class Scales(enum.Enum):
  """The features that queries read."""
  # Those of stride 32, 16 and 8 of the pixel decoder in turn, one in each layer.
  ALTERNATING = enum.auto()
  # All three, in each layer.
  CONCATENATED = enum.auto()
  # That of one stride, in each layer.
  STRIDE_32 = enum.auto()
  STRIDE_16 = enum.auto()
  STRIDE_8 = enum.auto()
  # The pixel decoder's own input of stride 32, in each layer (MaskFormer).
  BACKBONE_STRIDE_32 = enum.auto()

  @property
  def num_levels(self) -> int:
    """Number of feature maps."""
    return 3 if self in (Scales.ALTERNATING, Scales.CONCATENATED) else 1

  def select(self, levels: Sequence[tf.Tensor], coarsest: tf.Tensor) -> list[tf.Tensor]:
    """Returns the feature maps that queries read.

    Args:
      levels: The pixel decoder's features of stride 32, 16 and 8.
      coarsest: The pixel decoder's own input of stride 32.
    """
    if self is Scales.BACKBONE_STRIDE_32:
      return [coarsest]
    if self.num_levels > 1:
      return list(levels)
    return [levels[(Scales.STRIDE_32, Scales.STRIDE_16, Scales.STRIDE_8).index(self)]]


class QueryFeatures(enum.Enum):
  """The queries before the first layer."""
  # Learned; classes and masks are predicted from them.
  LEARNED = enum.auto()
  # Learned, and nothing is predicted from them.
  LEARNED_WITHOUT_LOSS = enum.auto()
  # Zero, and nothing is predicted from them (DETR, MaskFormer).
  ZERO = enum.auto()


class MaskedAttentionDecoder(keras.layers.Layer):
  """Turns feature maps into classes and masks of queries.

  Attributes:
    scales: The features that queries read.
    query_features: float32 [num_queries, channels], the queries before the first layer; None if
      they are zero.
    query_positions: float32 [num_queries, channels], position embedding of the queries.
    level_embedding: float32 [levels, channels], which tells the features of the levels apart; None
      if there is one level.
    input_projections: Projection of each level to the decoder's channels; empty if the levels are
      taken as they are.
    layers: The decoder layers.
    norm: Layer norm of the queries before the heads. The next layer reads the queries without it.
    class_head: From a query to its class logits.
    mask_head: The three layers from a query to its mask embedding.
    first_prediction: Layer after which the first prediction is made; 0: before the first layer.
  """

  def __init__(self, *, feature_channels: int, mask_channels: int, num_queries: int,
               num_classes: int, num_layers: int, options: MaskedDecoderOptions,
               scales: Scales = Scales.ALTERNATING,
               query_features: QueryFeatures = QueryFeatures.LEARNED,
               force_input_projections: bool = False, recompute_layers: bool = False):
    """Initializes the layer.

    Args:
      feature_channels: Channels of the feature maps.
      mask_channels: Channels of the mask features.
      num_queries: Number of queries.
      num_classes: Number of classes without "no object".
      num_layers: Number of layers.
      options: Sizes and form of a layer.
      scales: The features that queries read.
      query_features: The queries before the first layer.
      force_input_projections: Whether feature maps are projected even if they have the channels of
        the queries.
      recompute_layers: Whether training recomputes the activations of each layer in the backward
        pass.
    """
    super().__init__()
    channels = options.channels
    self.scales = scales
    self.recompute_layers = recompute_layers
    self.first_prediction = 0 if query_features is QueryFeatures.LEARNED else 1
    self._reads_masks = options.cross_attention.reads_masks
    self.query_features = self._embedding(
        'query_features', 0 if query_features is QueryFeatures.ZERO else num_queries, channels)
    self.query_positions = self._embedding('query_positions', num_queries, channels)
    # With one level it would be a constant that is added to all pixels; MaskFormer has none.
    self.level_embedding = self._embedding(
        'level_embedding', scales.num_levels if scales.num_levels > 1 else 0, channels)
    needs_projections = force_input_projections or feature_channels != channels
    self.input_projections = [
        Convolution(feature_channels, channels, kernel_initializer=initializers.caffe2_xavier())
        for _ in range(scales.num_levels if needs_projections else 0)]
    self.layers = [MaskedDecoderLayer(options) for _ in range(num_layers)]
    self.norm = LayerNorm(channels)
    self.class_head = _linear(channels, num_classes + 1)
    self.mask_head = [_linear(channels, channels, 'relu'), _linear(channels, channels, 'relu'),
                      _linear(channels, mask_channels)]

  def call(self, levels: Sequence[tf.Tensor], mask_features: tf.Tensor, training: bool = False,
           all_predictions: bool = False) -> list[dict[str, tf.Tensor]]:
    """Predicts classes and masks.

    Args:
      levels: [batch, h, w, feature_channels], the feature maps that `scales.select` returns: those
        of stride 32, 16 and 8 or one of them.
      mask_features: [batch, height, width, mask_channels] for stride 4.
      training: Whether all predictions are returned, values are dropped, and activations are
        recomputed if the decoder is to do so.
      all_predictions: Whether all predictions are returned at inference too.

    Returns:
      The predictions in the order of the layers or the last alone, each with float32 `class_logits`
      [batch, num_queries, classes + 1] ("no object" last) and `mask_logits`
      [batch, height, width, num_queries]. There are num_layers + 1 if query features have a loss,
      else num_layers.
    """
    memories = self._memories(levels)
    mask_features = tf.cast(mask_features, tf.float32)
    every = training or all_predictions
    resized = self._resized(mask_features, memories) if self._reads_masks else []
    queries = self._first_queries(dimensions(mask_features)[0])
    predictions = []
    for i, layer in enumerate(self.layers):
      # Without a prediction before the first layer it has no masks, and queries read all pixels:
      # the paper does not say what they read then, and there is no other choice without a mask.
      logits = None
      is_predicted = i >= self.first_prediction
      if is_predicted and (every or self._reads_masks):
        embedding, prediction = self._predict(queries, mask_features if every else None)
        predictions += prediction
      if is_predicted and self._reads_masks:
        logits = tf.matmul(tf.stop_gradient(embedding), resized[i % len(resized)],
                           transpose_b=True)
      queries = self._run(layer, queries, memories[i % len(memories)], logits, training)
    return predictions + self._predict(queries, mask_features)[1]

  def _embedding(self, name: str, count: int, channels: int) -> Optional[tf.Variable]:
    """Returns a new embedding [count, channels], or None for 0."""
    return self.add_weight(name, (count, channels), initializer=keras.initializers.RandomNormal(
        stddev=1.0)) if count else None

  def _first_queries(self, batch):
    """Returns the queries before the first layer, [batch, num_queries, channels]."""
    if self.query_features is None:
      return tf.zeros([batch, *self.query_positions.shape], self.compute_dtype)
    return tf.tile(tf.cast(self.query_features, self.compute_dtype)[None], [batch, 1, 1])

  def _memories(self, levels):
    """Returns what the queries read in turn: each level, or all levels together."""
    memories = []
    for i, level in enumerate(levels):
      level = tf.cast(level, self.compute_dtype)
      if self.input_projections:
        level = self.input_projections[i](level)
      _, height, width, channels = dimensions(level)
      values = _flat(level)
      if self.level_embedding is not None:
        values += tf.cast(self.level_embedding[i], level.dtype)
      positions = sine_position_embedding(height, width, channels)
      keys = values + tf.cast(tf.reshape(positions, [height * width, channels]), level.dtype)
      memories.append(Memory(values, keys, [(height, width)]))
    if self.scales is Scales.CONCATENATED:
      values, keys, sizes = zip(*memories)
      return [Memory(tf.concat(values, 1), tf.concat(keys, 1), [size for size, in sizes])]
    return memories

  def _resized(self, mask_features, memories):
    """Returns the mask features at the pixels of each memory, without gradient.

    The mask logits of a level are the logits at stride 4 resized (half-pixel centers, without
    antialiasing). Resizing is linear, so they are products with resized features.
    """
    features = tf.stop_gradient(mask_features)
    return [tf.concat([_flat(resize_bilinear(features, size, 'half_pixel'))
                       for size in memory.sizes], 1) for memory in memories]

  def _run(self, layer, queries, memory, mask_logits, training):
    """Runs a decoder layer; without mask logits, queries read all pixels."""
    def run(queries, positions, values, keys, mask_logits):
      blocked = None if mask_logits is None else attention_mask(mask_logits)
      return layer(queries, positions, Memory(values, keys, memory.sizes), blocked,
                   training=training)

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
