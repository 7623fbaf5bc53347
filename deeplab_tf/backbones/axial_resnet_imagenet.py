"""The paper's Axial-ResNets, for ImageNet and segmentation (Axial-DeepLab, sections 3.2, 4.1).

Unlike DeepLab2's (axial_resnet.py), they have a max pooling after the stem, and the stem can
consist of axial blocks. The paper's S, M, L and XL are a stem_width_multiplier and
backbone_width_multiplier of 0.5, 0.75, 1 and 2.

In the paper each axis is strided after its own layer; the authors' PyTorch code for ImageNet pools
both axes after the second layer. The networks for ImageNet follow the code, whose multiply-adds are
closer to the paper's numbers. Those for segmentation follow the text, as DeepLab2 does: there its
multiply-adds are closer.
"""

from deeplab_tf.backbones import block_group_network
from deeplab_tf.backbones.block_group_network import NetworkOptions
from deeplab_tf.backbones.features import Backbone
from deeplab_tf.layers.block_group import BlockGroupOptions
from deeplab_tf.layers.local_attention import LOCAL
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.layers.position_sensitive import AXIAL

_CONV_STEM = NetworkOptions(
    stem='resnet', pooled=True,
    groups=BlockGroupOptions(axial_beyond_stride=4, attention_bottleneck_expansion=2).with_blocks(
        attention=AXIAL._replace(stride_by='average')))

# In the PyTorch code tables of positions are as long as the features.
_PYTORCH = _CONV_STEM.with_groups(positions_image_size=224)

# Position-sensitive attention over regions of 7x7 pixels (table 1). Stand-alone self-attention
# strides by average pooling too.
_CONV_STEM_ATTENTION = _CONV_STEM.with_groups(attention_bottleneck_expansion=1).with_blocks(
    attention_expansion=(1, 1), attention=LOCAL._replace(stride_by='average'))

VARIANTS = {
    # Attention over the whole axis from the first block on.
    'conv_stem_axial_resnet': _CONV_STEM,
    # Three axial blocks, the first of stride 2, in place of the stem's convolution; span 15 in all
    # blocks. The stem's pooling stays, since the next stage works at stride 4.
    'full_axial_resnet': _CONV_STEM._replace(stem='none', has_first_stage=True).with_groups(
        axial_beyond_stride=1).with_blocks(
            attention=AXIAL._replace(span=15, stride_by='average')),
    'conv_stem_attention': _CONV_STEM_ATTENTION,
    # For segmentation: after Panoptic-DeepLab's stem of three convolutions (section 3.2). The
    # multiply-adds of tables 2, 4, 6 and 7 are those with the max pooling, without which DeepLab2's
    # axial_deeplab_* have 6% more, and with each axis strided after its own layer.
    'inception_stem_axial_resnet': _CONV_STEM._replace(stem='inception').with_blocks(
        attention=AXIAL),
    'inception_stem_attention': _CONV_STEM_ATTENTION._replace(stem='inception'),
    'axial26': _PYTORCH._replace(num_blocks=(1, 2, 4, 1)),
    'axial50': _PYTORCH,
}


def build(name: str, options, norm: NormFactory) -> Backbone:
  """Builds a variant with the changes of BackboneOptions."""
  return block_group_network.build(VARIANTS[name], options, norm)
