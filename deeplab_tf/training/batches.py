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
    batches: A tf.data.Dataset or distributed data set.
    strategy: Strategy that shares the batches. The loss of another worker may appear here first;
      its error is passed on.

  Raises:
    UsageError: The content of a data file is invalid; the message names the file.
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
  """Returns the training batches from a step on, split over the replicas.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    targets: 'mask', 'center' or 'class'; see structures.
    strategy: Strategy that shares the batches.
    start_step: Number of steps whose batches are skipped.
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
    cluster: The workers; each of n workers gets every n-th image.
  """
  return checked(pipeline.eval_dataset(config, dataset_info, len(cluster.workers), cluster.index))
