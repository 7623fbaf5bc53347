"""Builds the evaluator that fits an architecture's targets."""

from typing import Any

import tensorflow as tf

from deeplab_tf.data import catalog
from deeplab_tf.training import monitor, summaries
from deeplab_tf.training.class_evaluator import ClassEvaluator
from deeplab_tf.training.evaluator import BatchEvaluator, Evaluator


def build(config, architecture, dataset_info: catalog.AnyInfo, *, writer: summaries.Writer,
          model_dir: str, global_step: tf.Variable, shows_images: bool,
          **loop: Any) -> BatchEvaluator:
  """Builds the evaluator.

  Args:
    config: ExperimentOptions.
    architecture: Of the config; see deeplab_tf.models.
    dataset_info: The classes.
    writer: Of the evaluation curves; pictures go there too.
    model_dir: The model directory.
    global_step: The variable with the steps that are done.
    shows_images: Whether pictures and files of predictions are made.
    **loop: As BatchEvaluator's.
  """
  options = config.evaluator_options
  if architecture.TARGETS == 'class':
    def write(position, picture):
      writer.image(f'pictures/{position:02d}', picture, int(global_step.numpy()))

    return ClassEvaluator(dataset_info=dataset_info, on_picture=write if shows_images else None,
                          num_pictures=options.num_vis_samples, **loop)
  samples = None
  if shows_images:
    samples = monitor.SampleMonitor(writer, dataset_info, options, model_dir, global_step)
  return Evaluator(dataset_info=dataset_info, on_sample=samples.on_sample if samples else None,
                   num_images=samples.num_images if samples else None, **loop)
