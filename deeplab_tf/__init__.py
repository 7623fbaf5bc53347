"""Panoptic segmentation with mask transformers in TensorFlow 2.

  config = deeplab_tf.load_config('configs/coco/max_deeplab/....textproto')
  model = deeplab_tf.build_model(config)
  segmenter = deeplab_tf.Segmenter.from_saved_model(directory)
"""

import importlib

__version__ = '0.1.0'

# Name -> (module, attribute). Loaded at first use, so that `import deeplab_tf` stays light.
_EXPORTS = {
    'load_config': ('deeplab_tf.config', 'load_config'),
    'ConfigError': ('deeplab_tf.config', 'ConfigError'),
    'build_model': ('deeplab_tf.models', 'build_model'),
    'Segmenter': ('deeplab_tf.segmenter', 'Segmenter'),
    'checkpoints': ('deeplab_tf.checkpoints', None),
}

__all__ = sorted(_EXPORTS) + ['__version__']


def __getattr__(name):
  if name not in _EXPORTS:
    raise AttributeError(f'module "deeplab_tf" has no attribute "{name}"')
  module_name, attribute = _EXPORTS[name]
  module = importlib.import_module(module_name)
  return getattr(module, attribute) if attribute else module


def __dir__():
  return __all__
