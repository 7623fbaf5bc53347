"""The first lines of a run, which describe its data and its model."""

import math
from typing import Optional

from deeplab_tf.classes import AnyInfo
from deeplab_tf.compat import keras


def describe_data(dataset_info: AnyInfo, counts: dict[str, Optional[int]]) -> str:
  """Returns a line about the data.

  Args:
    dataset_info: The classes.
    counts: Purpose ('train', 'evaluation') -> number of images; None if unknown.
  """
  sizes = [f'{purpose} ' + ('images: number unknown' if count is None else f'{count} images')
           for purpose, count in counts.items()]
  return f'data: {dataset_info.name}, {dataset_info.description}; {", ".join(sizes)}'


def describe_random_start(config) -> list[str]:
  """Returns the lines of a training that starts without a checkpoint."""
  lines = ['checkpoint: none yet, training starts from random weights']
  weights = config.model_options.backbone.pretrained_weights
  if weights:
    lines.append(
        f'WARNING: model_options.backbone.pretrained_weights "{weights}" is not read here: '
        'convert these weights with trainer/convert_checkpoint.py and set '
        'model_options.initial_checkpoint to the result')
  return lines


def describe_model(config, model: keras.Model) -> str:
  """Returns a line about the network of ExperimentOptions."""
  options = config.trainer_options
  parameters = sum(math.prod(v.shape) for v in model.trainable_variables)
  name = config.model_options.WhichOneof('meta_architecture')
  precision = options.Precision.Name(options.precision).lower()
  return (f'model: {name} on {config.model_options.backbone.name}, '
          f'{parameters:,} trainable parameters, computes in {precision}')
