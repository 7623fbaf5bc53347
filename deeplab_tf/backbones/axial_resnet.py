"""Residual networks with axial attention in place of 3x3 convolutions, as in DeepLab2.

Their width is backbone_width_multiplier. As in DeepLab2, `_s` and `_l` are the same network, since
the multiplier of the config replaces the half width of `_s`.
"""

from deeplab_tf.backbones import block_group_network, resnet
from deeplab_tf.backbones.block_group_network import NetworkOptions
from deeplab_tf.backbones.features import Backbone
from deeplab_tf.layers.normalization import NormFactory


def _everywhere(network: NetworkOptions) -> NetworkOptions:
  """Returns the network with attention in all stages after the stem (Axial-DeepLab, table 1)."""
  return network.with_groups(axial_beyond_stride=2, attention_bottleneck_expansion=2)


def _from_stride_16(num_blocks: tuple[int, ...]) -> NetworkOptions:
  """Returns a ResNet with attention in the blocks whose input has stride 16 (CMT-DeepLab)."""
  network = resnet.VARIANTS['resnet50_beta'].with_groups(axial_beyond_stride=16,
                                                         attention_bottleneck_expansion=2)
  return network._replace(num_blocks=num_blocks)


VARIANTS = {
    'axial_resnet50': _from_stride_16((3, 4, 6, 3)),
    'axial_resnet104': _from_stride_16((3, 4, 24, 3)),
    **{name: _everywhere(resnet.VARIANTS['resnet50'])
       for name in ('axial_resnet_s', 'axial_resnet_l')},
    **{name: _everywhere(resnet.VARIANTS['resnet50_beta'])
       for name in ('axial_deeplab_s', 'axial_deeplab_l')},
    'axial_swidernet': resnet.WIDE_RESNET.with_groups(
        axial_beyond_stride=16, attention_bottleneck_expansion=4).with_blocks(
            attention_expansion=(2, 4)),
}


def build(name: str, options, norm: NormFactory) -> Backbone:
  """Builds a variant with the changes of BackboneOptions."""
  return block_group_network.build(VARIANTS[name], options, norm)
