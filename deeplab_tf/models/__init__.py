"""The networks: one module per architecture, one paper's figure each.

A module NAME has, where NAME is the field set in `model_options.meta_architecture`:

  build(config, dataset_info) -> keras.Model
  build_criterion(config, dataset_info) -> losses.Criterion
  build_postprocessor(config, dataset_info, static_shapes=False) ->
      callable(outputs, output_size) -> PanopticPrediction, or ClassPrediction where TARGETS is
      'class'; static_shapes for XLA. That of a mask model may also have with_queries(outputs,
      output_size) -> (PanopticPrediction, QueryMaps), which evaluation/analyze.py uses.
  TARGETS: 'mask', 'center' or 'class', the form of its ground truth (deeplab_tf.structures); with
      'class' the dataset_info is a ImageClasses, else a DatasetInfo.
  MASKS_COMPETE: of mask models, whether the queries of a pixel share a softmax (MaX-DeepLab), or
      each mask is a sigmoid of its own.
  backbone_variables(model), inference_variables(model): what pre-training gives, and what
      inference uses, of the trainable variables.
  last_layers(model) -> dict of lists of layers: the final convolutions of its heads, 'semantic'
      and, where it has an instance branch, 'instance'. The options
      restore_..._last_layer_from_initial_checkpoint are about them.
"""

import functools
import types
from typing import Callable

from deeplab_tf import modules
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.losses.criterion import LossTerm
from deeplab_tf.postprocessing.averaged_passes import AveragedPasses


def architecture(config) -> types.ModuleType:
  """Returns the module of the architecture that the config sets."""
  return modules.load('models', config.model_options.WhichOneof('meta_architecture'))


def build_model(config):
  """Builds the network that a config describes.

  Args:
    config: ExperimentOptions from `load_config`.

  Returns:
    A keras.Model: float32 [batch, height, width, 3] normalised images to a dictionary of
    raw outputs (see the model's `call`).
  """
  from deeplab_tf.data import catalog
  return architecture(config).build(config, catalog.from_config(config))


def norm_factory(options) -> Callable[..., BatchNorm]:
  """Returns the batch norm that SolverOptions describe."""
  return functools.partial(BatchNorm, momentum=options.batchnorm_momentum,
                           epsilon=options.batchnorm_epsilon,
                           synchronized=options.use_sync_batchnorm,
                           frozen=options.freeze_batchnorm_statistics)


def loss_term(config, name: str) -> LossTerm:
  """Returns a term of the criterion, by its field in LossOptions; of weight 0 if it is not set."""
  losses = config.trainer_options.loss_options
  fields = getattr(losses, name)
  return LossTerm(fields.weight if losses.HasField(name) else 0.0, fields.top_k_percent)


def inference_network(config, model) -> Callable:
  """Returns the function from normalised images to raw outputs at inference.

  Where evaluator_options ask for scales or mirrored images, it averages over them; see
  AveragedPasses.
  """
  options = config.evaluator_options
  scales = tuple(options.eval_scales) or (1.0,)
  if scales != (1.0,) or options.add_flipped_images:
    return AveragedPasses(model, scales, options.add_flipped_images)
  return functools.partial(model, training=False)
