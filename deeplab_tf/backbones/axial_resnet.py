"""Residual networks whose 3x3 convolutions are axial attention, as DeepLab2's.

Their widths are backbone_width_multiplier's: in DeepLab2 as well, `_s` and `_l` are the same
network, since the multiplier of the config replaces the half width of `_s`.
"""

from deeplab_tf.backbones import resnet

# Axial-DeepLab, table 1: attention in all stages behind the stem.
_EVERYWHERE = {'axial_beyond_stride': 2, 'attention_bottleneck_expansion': 2,
               'attention_expansion': (1, 2)}

VARIANTS = {
    **{name: resnet.VARIANTS['resnet50'].with_groups(**_EVERYWHERE)
       for name in ('axial_resnet_s', 'axial_resnet_l')},
    **{name: resnet.VARIANTS['resnet50_beta'].with_groups(**_EVERYWHERE)
       for name in ('axial_deeplab_s', 'axial_deeplab_l')},
    'axial_swidernet': resnet.WIDE_RESNET.with_groups(
        axial_beyond_stride=16, attention_bottleneck_expansion=4, attention_expansion=(2, 4)),
}
