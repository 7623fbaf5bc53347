"""The networks, one module per architecture.

A module NAME, where NAME is the field set in `model_options.meta_architecture`, holds the network
as a class and ARCHITECTURE, an `architecture.Architecture`, which describes it to the rest of the
library.
"""

import functools
from typing import Callable

from deeplab_tf import config as config_lib
from deeplab_tf import modules
from deeplab_tf.architecture import Architecture
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.losses.criterion import LossTerm
from deeplab_tf.postprocessing.averaged_passes import AveragedPasses


def architecture(config) -> Architecture:
  """Returns the architecture that a config sets.

  Raises:
    ConfigError: The architecture is unknown, or it does not do the task of the config.
  """
  name = config.model_options.WhichOneof('meta_architecture')
  found = modules.load('models', name).ARCHITECTURE
  found.check_task(config)
  return found


def build_model(config):
  """Builds the network that a config describes.

  Args:
    config: ExperimentOptions from `load_config`.

  Returns:
    A keras.Model that maps normalized images, float32 [batch, height, width, 3], to a dictionary
    of raw outputs (see the model's `call`).
  """
  from deeplab_tf.data import catalog
  return architecture(config).build(config, catalog.from_config(config))


def norm_factory(options) -> Callable[..., BatchNorm]:
  """Returns the factory of the batch norms that SolverOptions describe."""
  return functools.partial(BatchNorm, momentum=options.batchnorm_momentum,
                           epsilon=options.batchnorm_epsilon,
                           synchronized=options.use_sync_batchnorm,
                           frozen=options.freeze_batchnorm_statistics)


def loss_term(config, name: str) -> LossTerm:
  """Returns a term of the criterion by its field in LossOptions; its weight is 0 if not set."""
  losses = config.trainer_options.loss_options
  fields = getattr(losses, name)
  return LossTerm(fields.weight if losses.HasField(name) else 0.0, fields.top_k_percent)


def matching_solver(config) -> str:
  """Returns the solver of the matching, 'scipy' or 'native'.

  SciPy's runs on the host, which compiled code cannot call.
  """
  losses = config.trainer_options.loss_options
  if losses.matching_solver == losses.AUTO:
    return 'native' if config.trainer_options.jit_compile else 'scipy'
  return losses.MatchingSolver.Name(losses.matching_solver).lower()


def inference_network(config, model) -> Callable:
  """Returns the function from normalized images to raw outputs at inference.

  If evaluator_options ask for scales or mirrored images, the function averages over them, see
  AveragedPasses; for mask2former its images have the size of their files, and its outputs are
  those of all passes, which the post-processing averages, see AveragedScores.
  """
  if config_lib.averages_resized_images(config):
    from deeplab_tf.models import _score_passes
    return _score_passes.build_network(config, model)
  if config_lib.averages_predictions(config):
    options = config.evaluator_options
    return AveragedPasses(model, tuple(options.eval_scales) or (1.0,), options.add_flipped_images)
  return functools.partial(model, training=False)
