"""The networks: one module per architecture, one paper's figure each.

A module NAME has, where NAME is the field set in `model_options.meta_architecture`:

  build(config, dataset_info) -> tf.keras.Model
  build_criterion(config, dataset_info) -> callable(outputs, targets) -> losses
  build_postprocessor(config, dataset_info, static_shapes=False) ->
      callable(outputs, output_size) -> PanopticPrediction; static_shapes for XLA.
  TARGETS: 'mask' or 'center', the form of its ground truth (deeplab_tf.structures).
  backbone_variables(model), inference_variables(model): what pre-training gives, and what
      inference uses, of the trainable variables.
  last_layers(model) -> dict of lists of layers: the final convolutions of its heads, 'semantic'
      and, where it has an instance branch, 'instance'. The options
      restore_..._last_layer_from_initial_checkpoint are about them.
"""

import types

from deeplab_tf import modules


def architecture(config) -> types.ModuleType:
  """Returns the module of the architecture that the config sets."""
  return modules.load('models', config.model_options.WhichOneof('meta_architecture'))


def build_model(config):
  """Builds the network that a config describes.

  Args:
    config: ExperimentOptions from `load_config`.

  Returns:
    A tf.keras.Model: float32 [batch, height, width, 3] normalised images to a dictionary of
    raw outputs (see the model's `call`).
  """
  from deeplab_tf.data import catalog
  return architecture(config).build(config, catalog.from_config(config))
