"""Residual networks whose 3x3 convolutions are axial attention, as DeepLab2's.

Their widths are backbone_width_multiplier's: in DeepLab2 as well, `_s` and `_l` are the same
network, since the multiplier of the config replaces the half width of `_s`.
"""

from deeplab_tf.backbones import resnet
from deeplab_tf.backbones.block_group_network import NetworkOptions

# Axial-DeepLab, table 1: attention in all stages behind the stem.
_EVERYWHERE = {'axial_beyond_stride': 2, 'attention_bottleneck_expansion': 2,
               'attention_expansion': (1, 2)}


def _with(network: NetworkOptions, **groups) -> NetworkOptions:
  return network._replace(groups=network.groups._replace(**groups))


VARIANTS = {
    **{name: _with(resnet.VARIANTS['resnet50'], **_EVERYWHERE)
       for name in ('axial_resnet_s', 'axial_resnet_l')},
    **{name: _with(resnet.VARIANTS['resnet50_beta'], **_EVERYWHERE)
       for name in ('axial_deeplab_s', 'axial_deeplab_l')},
    'axial_swidernet': _with(resnet.WIDE_RESNET, axial_beyond_stride=16,
                             attention_bottleneck_expansion=4, attention_expansion=(2, 4)),
}
