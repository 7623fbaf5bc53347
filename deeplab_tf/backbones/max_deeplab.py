"""Backbones of MaX-DeepLab (figures A.7 to A.9): ResNets with axial and dual-path stages."""

from typing import NamedTuple

from deeplab_tf.backbones import axial_resnet, block_group_network
from deeplab_tf.backbones.features import Backbone
from deeplab_tf.layers.normalization import NormFactory


class MaskTransformerOptions(NamedTuple):
  """Options of a variant beyond those of the pre-trained network.

  Attributes:
    memory_channels: Channels of the memory.
    transformer_channels: Key channels of the dual-path layers at stride 16.
    feature_channels: Channels of the class and mask features.
    transformer_beyond_stride: Output stride from which a dual-path layer follows each block.
    decoder_stacks: Number of decoder stacks (the paper's L), including those of the pre-trained
      network.
    decoder_blocks: Number of blocks in the extra stage and in each decoder step that is not
      pre-trained.
  """
  memory_channels: int
  transformer_channels: int
  feature_channels: int
  transformer_beyond_stride: int
  decoder_stacks: int
  decoder_blocks: int


# ResNet-50 with axial blocks in the last two stages. As in DeepLab2, the first block of stage 4 is
# convolutional, since its input has stride 8.
_SMALL = axial_resnet.VARIANTS['axial_resnet50']
# Wide-ResNet-41 with axial blocks, and a decoder stack that is pre-trained with it.
_LARGE = axial_resnet.VARIANTS['axial_swidernet']._replace(decoder_stacks=1)

VARIANTS = {
    'max_deeplab_s': _SMALL,
    'max_deeplab_s_backbone': _SMALL,
    'max_deeplab_l': _LARGE,
    'max_deeplab_l_backbone': _LARGE,
}

# The variants that models.max_deeplab takes. The others of this module are the same networks, for
# pre-training or for use without a memory.
MASK_TRANSFORMERS = {
    'max_deeplab_s': MaskTransformerOptions(memory_channels=256, transformer_channels=128,
                                            feature_channels=256, transformer_beyond_stride=32,
                                            decoder_stacks=0, decoder_blocks=1),
    'max_deeplab_l': MaskTransformerOptions(memory_channels=512, transformer_channels=256,
                                            feature_channels=512, transformer_beyond_stride=16,
                                            decoder_stacks=2, decoder_blocks=3),
}


def build(name: str, options, norm: NormFactory) -> Backbone:
  """Builds a variant with the changes of BackboneOptions."""
  return block_group_network.build(VARIANTS[name], options, norm)
