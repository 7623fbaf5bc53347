"""Batches for the trainer and the evaluator, with data errors turned into one line."""

from typing import Iterable, Iterator, Optional

import tensorflow as tf

from deeplab_tf.data import errors, pipeline
from deeplab_tf.training import distribution
from deeplab_tf.training.distribution import Cluster
from deeplab_tf.user_errors import UsageError


def checked(batches: Iterable, strategy: Optional[tf.distribute.Strategy] = None) -> Iterator:
  """Iterates over batches.

  Args:
    batches: Of tf.data.
    strategy: What shares them. The loss of another worker may show here first, and is passed on.

  Raises:
    UsageError: The content of a data file is wrong; the message names it.
  """
  iterator = iter(batches)
  while True:
    try:
      batch = next(iterator)
    except StopIteration:
      return
    except tf.errors.OpError as error:
      if strategy is not None and distribution.tells_lost_worker(error, strategy):
        raise
      raise UsageError(errors.describe_data_error(error)) from error
    yield batch


def training(config, dataset_info, targets: str, strategy: tf.distribute.Strategy,
             start_step: int) -> Iterator:
  """Returns the batches of a training from a step on, for each replica its part.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    targets: 'mask', 'center' or 'class'; see structures.
    strategy: What shares the batch.
    start_step: Steps whose batches are skipped.
  """
  def dataset(input_context=None):
    return pipeline.train_dataset(config, dataset_info, targets,
                                  seed=config.trainer_options.seed, start_step=start_step,
                                  input_context=input_context)

  if strategy.num_replicas_in_sync == 1:
    return checked(dataset())
  return checked(strategy.distribute_datasets_from_function(dataset), strategy)


def evaluation(config, dataset_info, cluster: Cluster) -> Iterator:
  """Returns the evaluation batches of one worker, in the order of the files.

  They are EvaluationBatch, or ClassEvaluationBatch where the data set has one class per image.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    cluster: The workers, each of which gets every n-th image.
  """
  return checked(pipeline.eval_dataset(config, dataset_info, len(cluster.workers), cluster.index))
