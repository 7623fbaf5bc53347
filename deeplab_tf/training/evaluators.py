"""Builds the evaluator of a task, and the post-processing required by its scores."""

from typing import Any, Callable, NamedTuple

import tensorflow as tf

from deeplab_tf import models, tasks
from deeplab_tf.architecture import Architecture
from deeplab_tf.classes import AnyInfo
from deeplab_tf.data import image_normalization, pipeline
from deeplab_tf.postprocessing.full_size import FullSizePostprocessor
from deeplab_tf.structures import QueryOutputs, ScoredPrediction
from deeplab_tf.tasks import Task
from deeplab_tf.training import extra_scores
from deeplab_tf.training.class_evaluator import ClassEvaluator
from deeplab_tf.training.evaluator import BatchEvaluator
from deeplab_tf.training.instance_evaluator import InstanceEvaluator
from deeplab_tf.training.panoptic_evaluator import PanopticEvaluator
from deeplab_tf.training.reporting import monitor, summaries
from deeplab_tf.training.semantic_evaluator import SemanticEvaluator
from deeplab_tf.user_errors import ConfigError


class Surroundings(NamedTuple):
  """Outputs and step of the run that an evaluation belongs to.

  Attributes:
    writer: Writer of the evaluation's curves and pictures.
    model_dir: The model directory.
    global_step: Variable with the number of completed steps.
    shows_images: Whether pictures and files of predictions are written.
  """
  writer: summaries.Writer
  model_dir: str
  global_step: tf.Variable
  shows_images: bool


def build(config, architecture: Architecture, dataset_info: AnyInfo, surroundings: Surroundings,
          **loop: Any) -> BatchEvaluator:
  """Builds the evaluator of a config's task.

  Args:
    config: ExperimentOptions.
    architecture: The config's architecture.
    dataset_info: The classes.
    surroundings: Outputs and step of the run.
    **loop: Arguments of BatchEvaluator.

  Raises:
    ConfigError: An option of evaluator_options is not for the config's task.
  """
  task = tasks.of(config)
  if task is Task.CLASSIFICATION:
    return _classification(config, dataset_info, surroundings, **loop)
  if task is Task.INSTANCE and config.evaluator_options.save_raw_predictions:
    raise ConfigError('evaluator_options.save_raw_predictions writes panoptic maps, and the task '
                      'is INSTANCE: set it to false, and let evaluation/predict.py write the masks')
  # This also refuses extra scores of other tasks.
  scores = extra_scores.build(config, architecture, dataset_info)
  postprocess = architecture.build_postprocessor(config, dataset_info)
  images = {**_of_images(config, dataset_info, surroundings),
            'at_full_size': getattr(postprocess, 'at_full_size', None), **loop}
  if task is Task.PANOPTIC:
    return PanopticEvaluator(logits_rule=getattr(postprocess, 'rule', 'aligned'),
                             extra_scores=scores, **images)
  return {Task.INSTANCE: InstanceEvaluator, Task.SEMANTIC: SemanticEvaluator}[task](**images)


def _of_images(config, dataset_info, surroundings) -> dict:
  """Returns the arguments of ImageEvaluator that concern images and pictures."""
  samples = None
  if surroundings.shows_images:
    samples = monitor.SampleMonitor(surroundings.writer, dataset_info, config.evaluator_options,
                                    surroundings.model_dir, surroundings.global_step)
  return {'dataset_info': dataset_info,
          'normalization': image_normalization.build(config.model_options),
          'resize_rule': pipeline.evaluation_augmentation(config).resize_rule,
          'on_sample': samples.on_sample if samples else None,
          'num_images': samples.num_images if samples else None}


def _classification(config, dataset_info, surroundings, **loop):
  def write(position, picture):
    surroundings.writer.image(f'pictures/{position:02d}', picture,
                              int(surroundings.global_step.numpy()))

  return ClassEvaluator(
      dataset_info=dataset_info, normalization=image_normalization.build(config.model_options),
      on_picture=write if surroundings.shows_images else None,
      num_pictures=config.evaluator_options.num_vis_samples, **loop)


def build_postprocessor(config, dataset_info: AnyInfo, static_shapes: bool) -> Callable:
  """Returns the part of an evaluation's post-processing that all replicas do with a batch.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    static_shapes: Whether all shapes are static, as XLA and TPU require.

  Returns:
    Function of (outputs, output_size) that returns the architecture's prediction, a
    ScoredPrediction if an extra score needs the queries, or QueryOutputs if maps are made at the
    size of each file, which the evaluator does.
  """
  architecture = models.architecture(config)
  postprocess = architecture.build_postprocessor(config, dataset_info, static_shapes)
  needs_queries = extra_scores.need_queries(config, architecture)

  def queries_of(outputs):
    return QueryOutputs(outputs['class_logits'], outputs['mask_logits'])

  if isinstance(postprocess, FullSizePostprocessor):
    return lambda outputs, output_size: queries_of(outputs)
  if not needs_queries:
    return postprocess
  return lambda outputs, output_size: ScoredPrediction(
      postprocess(outputs, output_size), queries_of(outputs))
