"""Axial-ResNets for ImageNet, as the paper has them (Axial-DeepLab, sections 3.2 and 4.1).

Unlike DeepLab2's (axial_resnet.py) they have a max pooling behind their stem, which can be axial
blocks. The paper's S, M, L and XL are a stem_width_multiplier and backbone_width_multiplier of
0.5, 0.75, 1 and 2.

The paper strides each axis behind its own layer; the authors' PyTorch code pools both axes behind
the second. We follow the code, whose multiply-adds are those that the paper prints.
"""

from deeplab_tf.backbones.block_group_network import NetworkOptions
from deeplab_tf.layers.block_group import BlockGroupOptions
from deeplab_tf.layers.local_attention import LOCAL
from deeplab_tf.layers.position_sensitive import AXIAL

_CONV_STEM = NetworkOptions(
    stem='resnet', pooled=True,
    groups=BlockGroupOptions(axial_beyond_stride=4, attention_bottleneck_expansion=2,
                             attention_expansion=(1, 2), transformer_beyond_stride=0,
                             attention=AXIAL._replace(stride_by='average')))

# The PyTorch code has tables as long as the features of its images.
_PYTORCH = _CONV_STEM.with_groups(positions_image_size=224)

VARIANTS = {
    # Over the whole axis from the first block on.
    'conv_stem_axial_resnet': _CONV_STEM,
    # Three axial blocks, the first of stride 2, in place of the stem's convolution; span 15 in all
    # blocks. The stem's pooling stays, since the next stage works at stride 4.
    'full_axial_resnet': _CONV_STEM._replace(stem='none', has_first_stage=True).with_groups(
        axial_beyond_stride=1, attention=AXIAL._replace(span=15, stride_by='average')),
    # Position-sensitive attention over regions of 7x7 pixels (table 1). Stand-alone self-attention
    # strides by average pooling too.
    'conv_stem_attention': _CONV_STEM.with_groups(
        attention_bottleneck_expansion=1, attention_expansion=(1, 1),
        attention=LOCAL._replace(stride_by='average')),
    'axial26': _PYTORCH._replace(num_blocks=(1, 2, 4, 1)),
    'axial50': _PYTORCH,
}
