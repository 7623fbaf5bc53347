"""All that training changes, and so all that a checkpoint holds."""

from typing import NamedTuple, Optional

import orbit
import tensorflow as tf

from deeplab_tf.checkpoints import restore
from deeplab_tf.compat import keras
from deeplab_tf.training import optimizers, precision
from deeplab_tf.training.optimizers import GroupedOptimizer
from deeplab_tf.training.precision import LossScale
from deeplab_tf.training.weight_average import WeightAverage


class TrainingState(NamedTuple):
  """What a training run has learnt and where it is.

  Attributes:
    model: The network.
    global_step: int64 [], the steps that are done.
    optimizer: Its slots exist.
    loss_scale: Of float16; None in other precisions.
    average: Of the weights; None without.
  """
  model: keras.Model
  global_step: tf.Variable
  optimizer: GroupedOptimizer
  loss_scale: Optional[LossScale] = None
  average: Optional[WeightAverage] = None

  @property
  def checkpoint_items(self) -> dict:
    """What a checkpoint holds, by name."""
    items = {'model': self.model, 'global_step': self.global_step,
             **self.optimizer.checkpoint_items}
    if self.loss_scale is not None:
      items['loss_scale'] = self.loss_scale
    if self.average is not None:
      items[restore.AVERAGED] = self.average.variables
    return items


def build_model(config, dataset_info, architecture,
                strategy: tf.distribute.Strategy) -> tuple[keras.Model, tf.Variable]:
  """Returns the network with random weights, and a step counter of 0."""
  options = config.trainer_options
  keras.utils.set_random_seed(options.seed)
  with strategy.scope(), precision.scope(options.Precision.Name(options.precision)):
    return architecture.build(config, dataset_info), orbit.utils.create_global_step()


def build(config, architecture, model: keras.Model, global_step: tf.Variable,
          strategy: tf.distribute.Strategy) -> TrainingState:
  """Adds what training needs; copies of weights start from those that the model has now."""
  options = config.trainer_options
  solver = options.solver_options
  with strategy.scope():
    optimizer = optimizers.build(solver, model.trainable_variables,
                                 architecture.parameter_groups(model, solver),
                                 config.train_dataset_options.batch_size)
    optimizer.build()
    loss_scale = LossScale() if options.precision == options.FLOAT16 else None
    average = WeightAverage(model, options.ema_decay) if options.ema_decay else None
  return TrainingState(model, global_step, optimizer, loss_scale, average)
