"""Swin Transformers (Liu et al., ICCV 2021) as backbones for segmentation.

The form is that of Mask2Former's code. Unlike in the classification network, each stage has a layer
norm at its output, which later stages do not see, and windows are shifted and never shrunk, however
small the map is. GELU is exact.
"""

import functools
from typing import NamedTuple, Optional, Sequence

import tensorflow as tf

from deeplab_tf.backbones import used_fields
from deeplab_tf.backbones.features import Backbone
from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Convolution, Projection
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.normalization import LayerNorm, NormFactory
from deeplab_tf.layers.recomputation import recompute
from deeplab_tf.layers.shapes import dimensions, pad_to_multiple
from deeplab_tf.layers.stochastic_depth import drop_path, keep_probabilities
from deeplab_tf.layers.window_attention import WindowAttention, small_normal
from deeplab_tf.user_errors import ConfigError

# Side of the patches of the embedding, in pixels.
_PATCH = 4
# Hidden channels of a block's feed-forward network, relative to its channels.
_EXPANSION = 4


class SwinSizes(NamedTuple):
  """Sizes of a variant.

  Attributes:
    embedding_channels: Channels of the first stage; each stage doubles them.
    num_blocks: Number of blocks of each of the four stages.
    num_heads: Number of attention heads of each of the four stages.
    window_size: Side of the attention windows, in tokens.
  """
  embedding_channels: int
  num_blocks: tuple[int, ...]
  num_heads: tuple[int, ...]
  window_size: int


VARIANTS = {
    'swin_tiny': SwinSizes(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    'swin_small': SwinSizes(96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    'swin_base': SwinSizes(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    'swin_large': SwinSizes(192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}


class _Patches(Convolution):
  """Convolution of patches that neither overlap nor are padded."""

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, in_channels] to [batch, height / 4, width / 4, channels]."""
    x = tf.nn.conv2d(x, tf.cast(self.kernel, x.dtype), self.stride, 'VALID')
    return self._finish(x, training)


class PatchEmbedding(keras.layers.Layer):
  """Linear map of patches of 4x4 pixels, and a layer norm.

  Attributes:
    projection: The linear map, a convolution.
    norm: The layer norm.
  """

  def __init__(self, channels: int):
    super().__init__()
    self.projection = _Patches(3, channels, _PATCH, stride=_PATCH,
                               kernel_initializer=small_normal())
    self.norm = LayerNorm(channels)

  def call(self, images: tf.Tensor) -> tf.Tensor:
    """Maps [batch, height, width, 3] to [batch, ceil(height / 4), ceil(width / 4), channels]."""
    return self.norm(self.projection(pad_to_multiple(images, _PATCH)))


class FeedForward(keras.layers.Layer):
  """Two linear layers with GELU between them.

  Attributes:
    fc1, fc2: The linear layers.
  """

  def __init__(self, channels: int):
    super().__init__()
    self.fc1 = Projection(channels, _EXPANSION * channels, activation='gelu',
                          kernel_initializer=small_normal())
    self.fc2 = Projection(_EXPANSION * channels, channels, kernel_initializer=small_normal())

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [..., channels] to the same shape."""
    return self.fc2(self.fc1(x))


class SwinBlock(keras.layers.Layer):
  """Window attention and a feed-forward network (equation 3 of the paper).

  Attributes:
    norm1, attention: Layer norm and attention of the first residual branch.
    norm2, mlp: Layer norm and feed-forward network of the second.
  """

  def __init__(self, channels: int, num_heads: int, *, window_size: int, shift: int = 0,
               keep_prob: float = 1.0):
    """Initializes the layer.

    Args:
      channels: Channels of input and output.
      num_heads: Number of attention heads.
      window_size: Side of the windows, in tokens.
      shift: Shift of the windows, in tokens.
      keep_prob: Probability that a branch is kept in training, for each branch independently.
    """
    super().__init__()
    self.keep_prob = keep_prob
    self.norm1 = LayerNorm(channels)
    self.attention = WindowAttention(channels, num_heads, window_size, shift)
    self.norm2 = LayerNorm(channels)
    self.mlp = FeedForward(channels)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, channels] to the same shape."""
    x += drop_path(self.attention(self.norm1(x)), self.keep_prob, training)
    return x + drop_path(self.mlp(self.norm2(x)), self.keep_prob, training)


class PatchMerging(keras.layers.Layer):
  """Joins 2x2 tokens into one of twice the channels.

  Attributes:
    norm: Layer norm of the joined tokens.
    reduction: Linear map without bias.
  """

  def __init__(self, channels: int):
    super().__init__()
    self.norm = LayerNorm(4 * channels)
    self.reduction = Projection(4 * channels, 2 * channels, use_bias=False,
                                kernel_initializer=small_normal())

  def call(self, x: tf.Tensor) -> tf.Tensor:
    """Maps [batch, height, width, c] to [batch, ceil(height / 2), ceil(width / 2), 2 * c]."""
    x = pad_to_multiple(x, 2)
    batch, height, width, channels = dimensions(x)
    x = tf.reshape(x, [batch, height // 2, 2, width // 2, 2, channels])
    # The order of the four in the channels: down first, then to the right.
    x = tf.transpose(x, [0, 1, 3, 4, 2, 5])
    x = tf.reshape(x, [batch, height // 2, width // 2, 4 * channels])
    return self.reduction(self.norm(x))


class SwinStage(keras.layers.Layer):
  """The blocks of a stage, every second of which has shifted windows, and the merging after them.

  Attributes:
    blocks: The blocks.
    merging: PatchMerging; None for the last stage.
  """

  def __init__(self, channels: int, num_heads: int, *, window_size: int,
               keep_probs: Sequence[float], merges: bool, recompute_blocks: bool = False):
    """Initializes the layer.

    Args:
      channels: Channels of the tokens.
      num_heads: Number of attention heads.
      window_size: Side of the windows, in tokens.
      keep_probs: For each block, the probability that a branch is kept in training.
      merges: Whether tokens are merged at the end.
      recompute_blocks: Whether the activations of each block are recomputed in the backward pass.
    """
    super().__init__()
    self._recompute = recompute_blocks
    self.blocks = [SwinBlock(channels, num_heads, window_size=window_size,
                             shift=window_size // 2 if index % 2 else 0, keep_prob=keep_prob)
                   for index, keep_prob in enumerate(keep_probs)]
    self.merging = PatchMerging(channels) if merges else None

  def call(self, x: tf.Tensor,
           training: bool = False) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
    """Runs the stage.

    Args:
      x: [batch, height, width, channels].
      training: Whether branches are dropped.

    Returns:
      The tokens after the blocks, of the shape of x, and after the merging [batch,
      ceil(height / 2), ceil(width / 2), 2 * channels], or None.
    """
    for block in self.blocks:
      run = functools.partial(block, training=training)
      x = recompute(run, x) if training and self._recompute else run(x)
    return x, None if self.merging is None else self.merging(x)


class Swin(keras.layers.Layer):
  """The network as a backbone (features.Backbone).

  Attributes:
    patch_embedding: From images to tokens.
    stages: The four stages.
    output_norms: For each stage the layer norm of its feature.
    features: Features 'res2' to 'res5', the normalized outputs of the stages.
  """

  def __init__(self, sizes: SwinSizes, drop_path_keep_prob: float = 1.0,
               drop_path_schedule: str = 'constant', recompute_blocks: bool = False):
    """Initializes the network.

    Args:
      sizes: Sizes of the variant.
      drop_path_keep_prob: See stochastic_depth.keep_probabilities.
      drop_path_schedule: See stochastic_depth.keep_probabilities.
      recompute_blocks: Whether the activations of each block are recomputed in the backward pass.
    """
    super().__init__()
    channels = [sizes.embedding_channels * 2**index for index in range(len(sizes.num_blocks))]
    keep_probs = keep_probabilities(drop_path_keep_prob, drop_path_schedule, sum(sizes.num_blocks))
    self.patch_embedding = PatchEmbedding(channels[0])
    self.stages = []
    for index, num_blocks in enumerate(sizes.num_blocks):
      own, keep_probs = keep_probs[:num_blocks], keep_probs[num_blocks:]
      self.stages.append(SwinStage(
          channels[index], sizes.num_heads[index], window_size=sizes.window_size, keep_probs=own,
          merges=bool(keep_probs), recompute_blocks=recompute_blocks))
    self.output_norms = [LayerNorm(n) for n in channels]
    self.features = tuple(Feature(f'res{index + 2}', _PATCH * 2**index, n)
                          for index, n in enumerate(channels))

  def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
    """Extracts features.

    Args:
      images: [batch, height, width, 3], normalized.
      training: Whether branches are dropped.

    Returns:
      [batch, h, w, channels] for each of `features`, by name.
    """
    x, outputs = self.patch_embedding(images), {}
    for feature, stage, norm in zip(self.features, self.stages, self.output_norms):
      tokens, x = stage(x, training=training)
      outputs[feature.name] = norm(tokens)
    return outputs


# === From a config ===


def build(name: str, options, norm: NormFactory) -> Backbone:
  """Builds a variant with the changes of BackboneOptions; it has layer norms, whatever `norm` is.

  Raises:
    ConfigError: The options set what the network does not have, or sizes that do not fit.
  """
  del norm
  used_fields.check(options, ('swin', 'recomputed', 'drop_path_keep_prob', 'drop_path_schedule'))
  return Swin(_configured(VARIANTS[name], options), options.drop_path_keep_prob,
              options.drop_path_schedule, used_fields.recomputes_blocks(options))


def _configured(sizes, options):
  own = options.swin
  sizes = sizes._replace(**{field: getattr(own, field) for field in (
      'embedding_channels', 'window_size') if own.HasField(field)})
  sizes = sizes._replace(**{field: used_fields.stage_numbers(options, 'swin', field,
                                                             getattr(sizes, field))
                            for field in ('num_blocks', 'num_heads')})
  for index, heads in enumerate(sizes.num_heads):
    channels = sizes.embedding_channels * 2**index
    if channels % heads:
      raise ConfigError(f'model_options.backbone.swin.num_heads has {heads} for stage {index + 1}: '
                        f'its {channels} channels do not divide into them; change num_heads or '
                        'embedding_channels')
  return sizes
