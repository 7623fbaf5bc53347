"""Builds the evaluator that fits an architecture's targets."""

from typing import Any, Callable

import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.classes import AnyInfo
from deeplab_tf.data import image_normalization
from deeplab_tf.structures import QueryOutputs, ScoredPrediction
from deeplab_tf.training import extra_scores
from deeplab_tf.training.class_evaluator import ClassEvaluator
from deeplab_tf.training.evaluator import BatchEvaluator, Evaluator
from deeplab_tf.training.reporting import monitor, summaries


def build(config, architecture, dataset_info: AnyInfo, *, writer: summaries.Writer,
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
  normalization = image_normalization.build(config.model_options)
  if architecture.TARGETS == 'class':
    def write(position, picture):
      writer.image(f'pictures/{position:02d}', picture, int(global_step.numpy()))

    return ClassEvaluator(dataset_info=dataset_info, normalization=normalization,
                          on_picture=write if shows_images else None,
                          num_pictures=options.num_vis_samples, **loop)
  scores, samples = extra_scores.build(config, architecture, dataset_info), None
  if shows_images:
    samples = monitor.SampleMonitor(writer, dataset_info, options, model_dir, global_step)
  return Evaluator(dataset_info=dataset_info, normalization=normalization, extra_scores=scores,
                   on_sample=samples.on_sample if samples else None,
                   num_images=samples.num_images if samples else None, **loop)


def build_read_out(config, dataset_info: AnyInfo, static_shapes: bool) -> Callable:
  """Returns what an evaluation makes of the network's outputs.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    static_shapes: For XLA and TPU.

  Returns:
    (outputs, output_size) -> the architecture's prediction, or ScoredPrediction where an extra
    score needs the queries.
  """
  architecture = models.architecture(config)
  postprocess = architecture.build_postprocessor(config, dataset_info, static_shapes)
  if not extra_scores.need_queries(config, architecture):
    return postprocess

  def read_out(outputs, output_size):
    queries = QueryOutputs(outputs['class_logits'], outputs['mask_logits'])
    return ScoredPrediction(postprocess(outputs, output_size), queries)

  return read_out
