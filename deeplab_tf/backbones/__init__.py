"""Networks that turn images into features.

A module has

  VARIANTS: dict of settings by name, the values of `model_options.backbone.name`;
  build(name, options, norm) -> features.Backbone, from a variant's name, BackboneOptions and the
      factory of norms.

MODULES gives the module of each variant, so that only that one is imported.
"""

import importlib

from deeplab_tf import modules
from deeplab_tf.backbones.features import Backbone
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.user_errors import ConfigError

_VARIANTS = {
    'axial_resnet': ('axial_resnet50', 'axial_resnet104', 'axial_resnet_s', 'axial_resnet_l',
                     'axial_deeplab_s', 'axial_deeplab_l', 'axial_swidernet'),
    'axial_resnet_imagenet': (
        'conv_stem_axial_resnet', 'full_axial_resnet', 'conv_stem_attention',
        'inception_stem_axial_resnet', 'inception_stem_attention', 'axial26', 'axial50'),
    'max_deeplab': ('max_deeplab_s', 'max_deeplab_s_backbone', 'max_deeplab_l',
                    'max_deeplab_l_backbone'),
    'resnet': ('resnet50', 'resnet50_beta', 'wide_resnet41', 'swidernet'),
    'swin': ('swin_tiny', 'swin_small', 'swin_base', 'swin_large'),
    'torchvision_resnet': ('torchvision_resnet50', 'torchvision_resnet101'),
}

# Variant -> its module in this package.
MODULES = {variant: module for module, variants in _VARIANTS.items() for variant in variants}


def build(options, norm: NormFactory) -> Backbone:
  """Builds the backbone that BackboneOptions describe.

  Args:
    options: BackboneOptions.
    norm: Factory of the norms.

  Returns:
    The backbone, a Keras layer.

  Raises:
    ConfigError: The backbone is unknown; the message lists the known ones.
  """
  if options.name not in MODULES:
    raise ConfigError(f'model_options.backbone.name is "{options.name}": there are '
                      f'{", ".join(MODULES)}.{modules.nearest(options.name, MODULES)}')
  module = importlib.import_module(f'{__name__}.{MODULES[options.name]}')
  return module.build(options.name, options, norm)
