"""The dual-path transformer layer: pixels and memory attend to each other (MaX-DeepLab, figure 3).

The memory holds one vector per query. M2P and M2M are one attention over pixels and memory
together (equation 14), P2M lets pixels attend to the memory (equation 13); P2P is the axial or
convolutional block before this layer.
"""

from typing import NamedTuple, Optional

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import activation as activation_lib
from deeplab_tf.layers.attention_records import AttentionRecord, report
from deeplab_tf.layers.convolution import Projection, merge_heads, split_channels, split_heads
from deeplab_tf.layers.normalization import NormFactory, scaled
from deeplab_tf.layers.product_moments import product_moments
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.layers.stochastic_depth import drop_path
from deeplab_tf.user_errors import ConfigError


class DualPathOptions(NamedTuple):
  """Sizes and switches of a dual-path layer.

  Attributes:
    channels: Channels of keys and of queries, over all heads; values and bottleneck have twice as
      many.
    feed_forward_channels: Hidden channels of the memory's feed-forward network.
    num_heads: Number of heads.
    pixel_to_memory: Whether pixels attend to the memory (P2M).
    memory_to_memory: Whether the memory attends to itself (M2M).
    activation: Name of the activation.
  """
  channels: int
  feed_forward_channels: int = 2048
  num_heads: int = 8
  pixel_to_memory: bool = True
  memory_to_memory: bool = True
  activation: str = 'relu'

  def at_stride(self, stride: int) -> 'DualPathOptions':
    """Returns the options at a stride, where `channels` are meant for stride 16."""
    return self._replace(channels=int(self.channels * stride / 16))

  @property
  def key_channels(self) -> int:
    return self.channels

  @property
  def value_channels(self) -> int:
    return 2 * self.channels

  @property
  def bottleneck_channels(self) -> int:
    return 2 * self.channels


class NormalizedAttention(keras.layers.Layer):
  """Attention whose logits and output are batch-normalized per head, without other scaling."""

  def __init__(self, value_channels: int, num_heads: int, norm: NormFactory,
               activation: str = 'relu'):
    super().__init__()
    self._activation = activation_lib.by_name(activation)
    self.norm_similarity = norm(num_heads, axes=(1,))
    self.norm_output = norm((num_heads, value_channels // num_heads), axes=(1, 3))

  def call(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, training: bool = False,
           key_size: Optional[tuple[Dimension, Dimension]] = None) -> tf.Tensor:
    """Computes the attention.

    Args:
      query: [batch, heads, queries, channels].
      key: [batch, heads, keys, channels].
      value: [batch, heads, keys, value channels].
      training: Whether batch norms use the batch's statistics.
      key_size: Height and width of the map whose pixels are the first keys, for attention records.

    Returns:
      [batch, queries, heads * value channels], activated.
    """
    return self._activation(self.read(query, key, value, training, key_size))

  def read(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, training: bool = False,
           key_size: Optional[tuple[Dimension, Dimension]] = None) -> tf.Tensor:
    """Returns the attention as `call` does, before the activation."""
    weights = self.attention_weights(query, key, training)
    report(AttentionRecord(self, (query, key, value), weights, key_size))
    queries, keys = query.shape[2], key.shape[2]
    on_values = not training and keys is not None and (queries is None or keys < queries)
    if on_values:
      # Weights sum to 1, so the norm, offset included, can be applied to the fewer values.
      value = self.norm_output(value)
    output = tf.matmul(tf.cast(weights, value.dtype), value)
    if not on_values:
      output = self.norm_output(output, training=training)
    return merge_heads(output)

  def attention_weights(self, query: tf.Tensor, key: tf.Tensor, training: bool) -> tf.Tensor:
    """Returns the attention weights, float32 [batch, heads, queries, keys]."""
    mean = variance = None
    if training and not self.norm_similarity.frozen:
      mean, variance = product_moments(query, key)
    scale, offset = self.norm_similarity.affine(mean, variance, training)
    # As in position_sensitive.py: queries are smaller than logits, and an offset per head does not
    # change the softmax, but needs a gradient.
    scale += 0.0 * offset
    logits = tf.matmul(scaled(query, scale[:, None, None]), key, transpose_b=True)
    return tf.nn.softmax(tf.cast(logits, tf.float32))


class DualPathLayer(keras.layers.Layer):
  """One exchange between the pixel path and the memory path."""

  def __init__(self, pixel_channels: int, memory_channels: int, options: DualPathOptions,
               norm: NormFactory, keep_prob: float = 1.0,
               pixel_attention: Optional[keras.layers.Layer] = None):
    """Initializes the layer.

    Args:
      pixel_channels: Channels of the pixel path.
      memory_channels: Channels of the memory path.
      options: Sizes and switches.
      norm: Factory of the batch norms.
      keep_prob: Probability that a branch is kept in training (drop path), in (0, 1].
      pixel_attention: With P2M, the layer by which pixels read the memory if it is another one
        than NormalizedAttention; a subclass then calls it.

    Raises:
      ValueError: The channels are not divisible by the number of heads.
    """
    super().__init__()
    if options.channels < 1 or options.channels % options.num_heads:
      raise ConfigError(f'dual-path attention: {options.channels} channels do not divide into '
                        f'{options.num_heads} heads; transformer_channels are those of a stage '
                        'whose input has stride 16, half as many at stride 8 and so on: change '
                        'them')
    self.options, self.keep_prob = options, keep_prob
    activation = options.activation
    self._activation = activation_lib.by_name(activation)
    middle = options.bottleneck_channels
    keys, values = options.key_channels, options.value_channels
    # One initializer per kernel: a shared one would draw the same numbers twice.
    def qkv_init():
      return keras.initializers.TruncatedNormal(stddev=middle**-0.5)

    self.memory_conv1 = Projection(memory_channels, middle, norm, activation)
    self.pixel_conv1 = Projection(pixel_channels, middle, norm, activation)
    # As in DeepLab2, the memory has keys and values only if something attends to them.
    self.memory_sizes = [keys, keys, values]
    memory_read = options.memory_to_memory or options.pixel_to_memory
    if not memory_read:
      self.memory_sizes = [keys]
    self.memory_qkv = Projection(middle, sum(self.memory_sizes), norm,
                                 kernel_initializer=qkv_init())
    self.pixel_sizes = [keys, keys, values] if options.pixel_to_memory else [keys, values]
    self.pixel_qkv = Projection(middle, sum(self.pixel_sizes), norm, kernel_initializer=qkv_init())

    self.memory_attention = NormalizedAttention(values, options.num_heads, norm, activation)
    self.memory_conv3 = Projection(values, memory_channels, norm, zero_gamma=True)
    self.feed_forward1 = Projection(memory_channels, options.feed_forward_channels, norm,
                                    activation)
    self.feed_forward2 = Projection(options.feed_forward_channels, memory_channels, norm,
                                    zero_gamma=True)
    if options.pixel_to_memory:
      self.pixel_attention = pixel_attention or NormalizedAttention(
          values, options.num_heads, norm, activation)
      self.pixel_conv3 = Projection(values, pixel_channels, norm, zero_gamma=True)

  def call(self, pixels: tf.Tensor, memory: tf.Tensor,
           training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """Lets both paths attend to each other.

    Args:
      pixels: [batch, height, width, pixel_channels], before the activation.
      memory: [batch, queries, memory_channels].
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      The updated pixels (before the activation) and memory, of the same shapes.
    """
    return self.exchange(pixels, memory, *self.bottlenecks(pixels, memory, training), training)

  def bottlenecks(self, pixels: tf.Tensor, memory: tf.Tensor,
                  training: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns both paths with `bottleneck_channels`, the pixels [batch, height * width, ...]."""
    batch, height, width, channels = dimensions(pixels)
    flat = tf.reshape(pixels, [batch, height * width, channels])
    # The paper activates every input; as in DeepLab2, the memory is taken as it is.
    return (self.pixel_conv1(self._activation(flat), training=training),
            self.memory_conv1(memory, training=training))

  def exchange(self, pixels: tf.Tensor, memory: tf.Tensor, narrow_pixels: tf.Tensor,
               narrow_memory: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Updates both paths by what they read of each other.

    Args:
      pixels: [batch, height, width, pixel_channels], before the activation.
      memory: [batch, queries, memory_channels].
      narrow_pixels: [batch, height * width, bottleneck channels]; see `bottlenecks`.
      narrow_memory: [batch, queries, bottleneck channels].
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      The updated pixels and memory, of the same shapes.
    """
    memory_qkv, pixel_qkv = self.projections(narrow_pixels, narrow_memory, training)
    size = tuple(dimensions(pixels)[1:3])
    read = self.memory_attention(*self.memory_reads(memory_qkv, pixel_qkv), training=training,
                                 key_size=size)
    new_memory = self.update_memory(memory, read, training)
    if not self.options.pixel_to_memory:
      return pixels, new_memory
    # Pixels attend to the memory as it was before this layer.
    read = self.pixel_attention(pixel_qkv[0], memory_qkv[1], memory_qkv[2], training=training)
    return self.update_pixels(pixels, read, training), new_memory

  def projections(self, narrow_pixels: tf.Tensor, narrow_memory: tf.Tensor,
                  training: bool) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Returns queries, keys and values of the memory and of the pixels, by head."""
    memory_qkv = self.memory_qkv(narrow_memory, training=training)
    pixel_qkv = self.pixel_qkv(narrow_pixels, training=training)
    heads = self.options.num_heads
    return ([split_heads(t, heads) for t in split_channels(memory_qkv, self.memory_sizes)],
            [split_heads(t, heads) for t in split_channels(pixel_qkv, self.pixel_sizes)])

  def memory_reads(self, memory_qkv: list[tf.Tensor],
                   pixel_qkv: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns queries, keys and values of M2P and M2M, which are under one softmax."""
    key, value = pixel_qkv[-2:]
    if self.options.memory_to_memory:
      key = tf.concat([key, memory_qkv[1]], axis=2)
      value = tf.concat([value, memory_qkv[2]], axis=2)
    return memory_qkv[0], key, value

  def update_memory(self, memory: tf.Tensor, read: tf.Tensor, training: bool) -> tf.Tensor:
    """Returns the memory after its residual branch and the feed-forward network.

    Args:
      memory: [batch, queries, memory_channels].
      read: [batch, queries, value channels], what it read, activated.
      training: Whether batch norms use the batch's statistics and branches are dropped.
    """
    branch = self.memory_conv3(read, training=training)
    memory = self._activation(memory + drop_path(branch, self.keep_prob, training))
    branch = self.feed_forward2(self.feed_forward1(memory, training=training), training=training)
    return self._activation(memory + drop_path(branch, self.keep_prob, training))

  def update_pixels(self, pixels: tf.Tensor, read: tf.Tensor, training: bool) -> tf.Tensor:
    """Returns the pixels after their residual branch, before the activation.

    Args:
      pixels: [batch, height, width, pixel_channels], before the activation.
      read: [batch, height * width, value channels], what they read, activated.
      training: Whether batch norms use the batch's statistics and branches are dropped.
    """
    branch = tf.reshape(self.pixel_conv3(read, training=training), dimensions(pixels))
    return pixels + drop_path(branch, self.keep_prob, training)


class DualPathLayers(NamedTuple):
  """Factory of a network's dual-path layers; see block_group.QueryLayers.

  Attributes:
    options: Sizes and switches at stride 16; `channels` is proportional to the stride.
    memory_channels: Channels of the memory path.
    norm: Factory of the batch norms.
    beyond_stride: Output stride from which a layer follows each block; 0: no layers.
  """
  options: DualPathOptions
  memory_channels: int
  norm: NormFactory
  beyond_stride: int

  def __call__(self, stride: int, channels: int, output_stride: int,
               keep_prob: float) -> Optional[DualPathLayer]:
    if not 0 < self.beyond_stride <= output_stride:
      return None
    return DualPathLayer(channels, self.memory_channels, self.options.at_stride(stride), self.norm,
                         keep_prob)
