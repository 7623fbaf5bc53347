"""Residual networks without attention: ResNet-50 and Wide-ResNet-41 (SWideRNet), as in DeepLab2."""

from deeplab_tf.backbones import block_group_network
from deeplab_tf.backbones.block_group_network import NetworkOptions
from deeplab_tf.backbones.features import Backbone
from deeplab_tf.layers.block_group import BlockGroupOptions
from deeplab_tf.layers.normalization import NormFactory

_CONVOLUTIONS = BlockGroupOptions(axial_beyond_stride=0)

# The only bottlenecks of Wide-ResNet-41 are those of stage 5; the others are basic blocks.
WIDE_RESNET = NetworkOptions(
    stem='wide_resnet', num_blocks=(3, 6, 3, 3), has_first_stage=True,
    groups=_CONVOLUTIONS._replace(kind='wide_resnet', drop_path_beyond_stride=4))

VARIANTS = {
    'resnet50': NetworkOptions(stem='resnet', groups=_CONVOLUTIONS),
    'resnet50_beta': NetworkOptions(groups=_CONVOLUTIONS),
    'wide_resnet41': WIDE_RESNET,
    'swidernet': WIDE_RESNET,
}


def build(name: str, options, norm: NormFactory) -> Backbone:
  """Builds a variant with the changes of BackboneOptions."""
  return block_group_network.build(VARIANTS[name], options, norm)
