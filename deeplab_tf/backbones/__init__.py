"""The networks that turn an image into features.

Modules hold networks and, in VARIANTS, their named settings; `model_options.backbone.name` is the
name of a variant.
"""

from deeplab_tf import modules
from deeplab_tf.layers.normalization import NormFactory
from deeplab_tf.user_errors import ConfigError


def variants() -> dict:
  """Returns all variants by name: NetworkOptions of backbones.block_group_network."""
  found = {}
  for name in modules.available('backbones'):
    found.update(getattr(modules.load('backbones', name), 'VARIANTS', {}))
  return found


def build(options, norm: NormFactory):
  """Builds the backbone that BackboneOptions describe, without a memory path.

  Args:
    options: BackboneOptions.
    norm: Makes the batch norms.

  Returns:
    A layer from images to features; see backbones.block_group_network.BlockGroupNetwork.

  Raises:
    ValueError: There is no backbone of this name; the message lists those that there are.
  """
  from deeplab_tf.backbones.block_group_network import BlockGroupNetwork
  known = variants()
  if options.name not in known:
    raise ConfigError(f'model_options.backbone.name is "{options.name}": there are '
                      f'{", ".join(known)}.{modules.nearest(options.name, known)}')
  return BlockGroupNetwork(known[options.name].customized(options), norm)
