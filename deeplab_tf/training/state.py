"""The state of a training, which is what a checkpoint contains."""

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
  """The state of a training run.

  Attributes:
    model: The network.
    global_step: int64 [], number of completed steps.
    optimizer: The optimizer, with existing slots.
    loss_scale: Loss scale for float16; None in other precisions.
    average: Averaged weights; None without averaging.
  """
  model: keras.Model
  global_step: tf.Variable
  optimizer: GroupedOptimizer
  loss_scale: Optional[LossScale] = None
  average: Optional[WeightAverage] = None

  @property
  def checkpoint_items(self) -> dict:
    """Name -> item of a checkpoint."""
    items = {'model': self.model, 'global_step': self.global_step,
             **self.optimizer.checkpoint_items}
    if self.loss_scale is not None:
      items['loss_scale'] = self.loss_scale
    if self.average is not None:
      items[restore.AVERAGED] = self.average.variables
    return items


def build_model(config, dataset_info, architecture,
                strategy: tf.distribute.Strategy) -> tuple[keras.Model, tf.Variable]:
  """Returns the network with random weights and a step counter at 0."""
  options = config.trainer_options
  keras.utils.set_random_seed(options.seed)
  with strategy.scope(), precision.scope(options.Precision.Name(options.precision)):
    return architecture.build(config, dataset_info), orbit.utils.create_global_step()


def build(config, architecture, model: keras.Model, global_step: tf.Variable,
          strategy: tf.distribute.Strategy) -> TrainingState:
  """Adds the state that training needs; copies of weights start from the model's current ones."""
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
