"""Backbones of MaX-DeepLab (figures A.7 and A.8): ResNets with axial and dual-path stages."""

from typing import Optional

from deeplab_tf.backbones.block_group_network import BlockGroupNetwork, NetworkOptions
from deeplab_tf.layers.block_group import BlockGroupOptions
from deeplab_tf.layers.dual_path_attention import DualPathOptions
from deeplab_tf.layers.normalization import NormFactory

# ResNet-50 with axial blocks in the last two stages and the memory in the last one. In stage 4
# the first block is convolutional, as in DeepLab2: what decides is the stride of its input.
VARIANTS = {
    'max_deeplab_s': NetworkOptions(
        num_blocks=(3, 4, 6, 3),
        groups=BlockGroupOptions(axial_beyond_stride=16, attention_bottleneck_expansion=2,
                                 attention_expansion=(1, 2), transformer_beyond_stride=32,
                                 drop_path_beyond_stride=16)),
}

# Sizes of the memory path by variant: channels of the memory, of the attention's keys, and of
# the class and mask features.
MEMORY = {'max_deeplab_s': (256, 128, 256)}


def build(options, norm: NormFactory, dual_path: Optional[DualPathOptions],
          memory_channels: int, axial: Optional[bool] = None) -> BlockGroupNetwork:
  """Builds the backbone that BackboneOptions describe.

  Args:
    options: BackboneOptions; its name is one of VARIANTS.
    norm: Makes the batch norms.
    dual_path: Sizes of the dual-path layers.
    memory_channels: Channels of the memory.
    axial: Whether blocks from stride 16 on are axial; None: as the variant says.
  """
  return BlockGroupNetwork(network_options(options, axial), norm, dual_path, memory_channels)


def network_options(options, axial: Optional[bool] = None) -> NetworkOptions:
  """Returns the variant that BackboneOptions name, with their multipliers applied."""
  variant = VARIANTS[options.name]
  groups = variant.groups._replace(
      output_stride=options.output_stride,
      drop_path_keep_prob=options.drop_path_keep_prob,
      drop_path_schedule=options.drop_path_schedule)
  if axial is not None:
    groups = groups._replace(axial_beyond_stride=16 if axial else 0)
  return variant._replace(
      num_blocks=tuple(int(n * options.backbone_layer_multiplier) for n in variant.num_blocks),
      stem_width=options.stem_width_multiplier,
      width=options.backbone_width_multiplier,
      groups=groups)
