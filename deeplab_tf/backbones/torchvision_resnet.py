"""ResNet-50 and ResNet-101 (He et al., CVPR 2016) in the form of torchvision and Detectron2.

Unlike DeepLab2's ResNets in `resnet.py`, they have a max pooling after the stem and no dilation,
and weights of torchvision fit: all padding is symmetric, the stride of a stage is in its first 3x3
convolution, and branches start with gamma 1.

MaskFormer's "R101c" is a ResNet-101 in DeepLab's form: its stem is three 3x3 convolutions, and the
3x3 convolutions of the last stage are dilated.

Mask2Former's weights need an epsilon of 1e-5 in the batch norms. Frozen ones have it; for trainable
ones configs set `solver_options.batchnorm_epsilon`.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from deeplab_tf.backbones import used_fields
from deeplab_tf.backbones.features import Backbone
from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.dilation import pad_for_stride
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.normalization import FrozenBatchNorm, NormFactory
from deeplab_tf.layers.recomputation import recompute


class ResNetSizes(NamedTuple):
  """Sizes of a variant.

  Attributes:
    num_blocks: Number of blocks of each of the four stages.
    stem_channels: Output channels of the stem; in DeepLab's form it has twice as many.
    middle_channels: Channels of the 3x3 convolutions of the first stage; each stage doubles them.
    stage_channels: Output channels of the first stage; each stage doubles them.
  """
  num_blocks: tuple[int, ...]
  stem_channels: int = 64
  middle_channels: int = 64
  stage_channels: int = 256


VARIANTS = {
    'torchvision_resnet50': ResNetSizes((3, 4, 6, 3)),
    'torchvision_resnet101': ResNetSizes((3, 4, 23, 3)),
}


class Bottleneck(keras.layers.Layer):
  """relu(shortcut + branch): 1x1, 3x3 and 1x1 convolutions with norms beside a shortcut.

  Attributes:
    conv1, conv2, conv3: The convolutions of the branch.
    shortcut: 1x1 convolution; None where input and output have the same channels.
  """

  def __init__(self, in_channels: int, middle_channels: int, channels: int, *, stride: int,
               norm: NormFactory, stride_in_1x1: bool = False, rate: int = 1):
    """Initializes the layer.

    Args:
      in_channels: Channels of the input.
      middle_channels: Channels of the 3x3 convolution.
      channels: Channels of the output.
      stride: Stride of the block; 1 if in_channels equals channels.
      norm: Factory of the norms.
      stride_in_1x1: Whether the first 1x1 convolution has the stride, not the 3x3 convolution.
      rate: Dilation of the 3x3 convolution.
    """
    super().__init__()
    first, second = (stride, 1) if stride_in_1x1 else (1, stride)
    self.conv1 = _convolution(in_channels, middle_channels, 1, stride=first, norm=norm,
                              activation='relu')
    self.conv2 = _convolution(middle_channels, middle_channels, 3, stride=second, rate=rate,
                              norm=norm, activation='relu')
    self.conv3 = _convolution(middle_channels, channels, 1, norm=norm)
    self.shortcut = None
    if in_channels != channels:
      self.shortcut = _convolution(in_channels, channels, 1, stride=stride, norm=norm)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, h, w, in_channels] to [batch, ceil(h / stride), ceil(w / stride), channels]."""
    branch = self.conv1(x, training=training)
    branch = self.conv2(branch, training=training)
    branch = self.conv3(branch, training=training)
    if self.shortcut is not None:
      x = self.shortcut(x, training=training)
    return tf.nn.relu(x + branch)


class DeepLabStem(keras.layers.Layer):
  """Three 3x3 convolutions with norms and relu, the first of stride 2.

  Attributes:
    conv1, conv2, conv3: The convolutions.
  """

  def __init__(self, middle_channels: int, channels: int, norm: NormFactory):
    """Initializes the layer.

    Args:
      middle_channels: Output channels of the first two convolutions.
      channels: Output channels of the last convolution.
      norm: Factory of the norms.
    """
    super().__init__()
    options = {'norm': norm, 'activation': 'relu'}
    self.conv1 = _convolution(3, middle_channels, 3, stride=2, **options)
    self.conv2 = _convolution(middle_channels, middle_channels, 3, **options)
    self.conv3 = _convolution(middle_channels, channels, 3, **options)

  def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Maps [batch, height, width, 3] to [batch, ceil(height / 2), ceil(width / 2), channels]."""
    x = self.conv1(images, training=training)
    x = self.conv2(x, training=training)
    return self.conv3(x, training=training)


class TorchvisionResNet(keras.layers.Layer):
  """The network as a backbone (features.Backbone).

  Attributes:
    stem: 7x7 convolution of stride 2, or a DeepLabStem; a max pooling of stride 2 follows it.
    stages: For each of the four stages the list of its blocks.
    features: Features 'res2' to 'res5', the outputs of the stages.
  """

  def __init__(self, sizes: ResNetSizes, norm: NormFactory, stride_in_1x1: bool = False,
               recompute_blocks: bool = False, deeplab_form: bool = False):
    """Initializes the network.

    Args:
      sizes: Sizes of the variant.
      norm: Factory of the norms.
      stride_in_1x1: Whether the first 1x1 convolution of a stage has its stride, as in the first
        ResNets, not the first 3x3 convolution.
      recompute_blocks: Whether the activations of each block are recomputed in the backward pass.
      deeplab_form: Whether the stem is a DeepLabStem with twice the output channels, and the blocks
        of the last stage have dilations 1, 2, 4 and so on.
    """
    super().__init__()
    self._recompute = recompute_blocks
    channels = sizes.stem_channels
    if deeplab_form:
      self.stem = DeepLabStem(channels, 2 * channels, norm)
      channels *= 2
    else:
      self.stem = _convolution(3, channels, 7, stride=2, norm=norm, activation='relu')
    self.stages, features = [], []
    for index, num_blocks in enumerate(sizes.num_blocks):
      blocks = []
      is_dilated = deeplab_form and index == len(sizes.num_blocks) - 1
      for block in range(num_blocks):
        is_strided = block == 0 and index > 0
        blocks.append(Bottleneck(channels, sizes.middle_channels * 2**index,
                                 sizes.stage_channels * 2**index, stride=2 if is_strided else 1,
                                 norm=norm, stride_in_1x1=stride_in_1x1,
                                 rate=2**block if is_dilated else 1))
        channels = sizes.stage_channels * 2**index
      self.stages.append(blocks)
      features.append(Feature(f'res{index + 2}', 4 * 2**index, channels))
    self.features = tuple(features)

  @property
  def blocks(self) -> list[Bottleneck]:
    """All blocks, from first to last. Keras' file formats find them here, not in lists of lists."""
    return [block for blocks in self.stages for block in blocks]

  def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
    """Extracts features.

    Args:
      images: [batch, height, width, 3], normalized.
      training: Whether batch norms use the batch's statistics, unless they are frozen.

    Returns:
      [batch, h, w, channels] for each of `features`, by name.
    """
    x = self.stem(images, training=training)
    # After relu no value is negative, so that zeros around them do not change a maximum.
    x = tf.nn.max_pool2d(pad_for_stride(x, 3, 1), 3, 2, 'VALID')
    outputs = {}
    for feature, blocks in zip(self.features, self.stages):
      for block in blocks:
        run = functools.partial(block, training=training)
        x = recompute(run, x) if training and self._recompute else run(x)
      outputs[feature.name] = x
    return outputs


def _convolution(in_channels, channels, kernel_size, **options):
  # torchvision's initialization.
  initializer = keras.initializers.VarianceScaling(2.0, 'fan_out', 'untruncated_normal')
  return Convolution(in_channels, channels, kernel_size, kernel_initializer=initializer, **options)


# === From a config ===


def build(name: str, options, norm: NormFactory) -> Backbone:
  """Builds a variant with the changes of BackboneOptions.

  Raises:
    ConfigError: The options set what the network does not have, or a stage has no number of blocks.
  """
  used_fields.check(options, ('resnet', 'recomputed'))
  own, sizes = options.resnet, VARIANTS[name]
  num_blocks = used_fields.stage_numbers(options, 'resnet', 'num_blocks', sizes.num_blocks)
  sizes = sizes._replace(num_blocks=num_blocks, **{
      field: getattr(own, field) for field in ('stem_channels', 'middle_channels', 'stage_channels')
      if own.HasField(field)})
  return TorchvisionResNet(sizes, FrozenBatchNorm if own.frozen_batch_norm else norm,
                           own.stride_in_1x1, used_fields.recomputes_blocks(options),
                           own.deeplab_form)
