"""Evaluates a model on the evaluation data, for Orbit's Controller."""

import abc
from typing import Any, Callable, Iterable, NamedTuple, Optional, Sequence

import numpy as np
import orbit
import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data.image_normalization import Normalization
from deeplab_tf.layers.resizing import ResizeRule
from deeplab_tf.metrics.accumulator import Accumulator, Group
from deeplab_tf.metrics.panoptic_quality import PanopticQuality, format_result
from deeplab_tf.postprocessing import resize_back
from deeplab_tf.postprocessing.full_size import FullSize
from deeplab_tf.structures import EvaluationBatch, QueryOutputs, ScoredPrediction
from deeplab_tf.training import distribution, replicated_prediction
from deeplab_tf.training.extra_scores import ExtraScore, ScoredImage
from deeplab_tf.training.signals import Stopped

# Name of panoptic quality among the scores.
_PANOPTIC = 'panoptic'


class Sample(NamedTuple):
  """One evaluated image, at the size of its file.

  Attributes:
    name: Name of the file, without extension.
    image: uint8 [height, width, 3], the network's input resized to the size of the file; None if
      it is not needed.
    ground_truth: int32 [height, width], panoptic map.
    prediction: int32 [height, width], panoptic map.
  """
  name: str
  image: Optional[np.ndarray]
  ground_truth: np.ndarray
  prediction: np.ndarray


class BatchEvaluator(orbit.AbstractEvaluator):
  """Predicts all batches on all replicas; subclasses score the predictions.

  Each worker scores its own images; then the counts of all workers are summed.

  Attributes:
    title: Name of the main score, for messages.
    scores: Names of the scalars of an evaluation.
    result: Result of the last evaluation; None before the first.
  """
  title: str
  scores: tuple[str, ...]

  def __init__(self, *, strategy: tf.distribute.Strategy, predict: Callable,
               batches: Callable[[], Iterable], progress: Callable,
               stop_requested: Callable[[], bool] = lambda: False):
    """Initializes the evaluator.

    Args:
      strategy: The devices.
      predict: Function of the images of a batch that returns their prediction; see
        ReplicatedPrediction.
      batches: Returns this worker's evaluation batches from the start.
      progress: Function of the number of batches (or None) that returns a progress.Progress.
      stop_requested: Returns whether to stop; called after each batch if there is only one worker.
    """
    super().__init__()
    self._strategy = strategy
    self._predict = predict
    self._batches = batches
    self._progress = progress
    self._stop_requested = stop_requested
    self._is_alone = len(distribution.cluster_of(strategy).workers) == 1
    self.result = None

  def evaluate(self, num_steps) -> dict:
    """Runs an evaluation.

    Args:
      num_steps: Number of batches; -1 for all.

    Returns:
      Flat scalars for TensorBoard with the names in `scores`, without those that are not available
      because there is no class or image to average over.

    Raises:
      Stopped: A stop was requested.
    """
    num_steps = int(num_steps)
    metric = self._new_metric()
    position = 0
    with self._progress(num_steps if num_steps >= 0 else None) as progress:
      for step, batch in enumerate(self._batches()):
        if 0 <= num_steps <= step:
          break
        prediction = tf.nest.map_structure(_on_host, self._predict(batch.images))
        self._score_batch(metric, batch, prediction, position)
        position += batch.images.shape[0]
        progress.update(step + 1)
        if self._is_alone and self._stop_requested():
          raise Stopped
    replicated_prediction.merge_over_workers(self._strategy, metric)
    self.result = self._result(metric)
    return self._scalars(self.result)

  @abc.abstractmethod
  def format_result(self) -> str:
    """Returns the result as text."""

  @abc.abstractmethod
  def _new_metric(self) -> Accumulator:
    """Returns an empty accumulator."""

  def _result(self, metric: Accumulator) -> dict:
    """Returns the new value of `result`."""
    return metric.result()

  @abc.abstractmethod
  def _score_batch(self, metric: Any, batch: Any, prediction: Any, position: int) -> None:
    """Adds a batch to the score; its first image is number `position` of this worker."""

  @abc.abstractmethod
  def _scalars(self, result: dict) -> dict:
    """Returns the flat scalars of a result."""


class Evaluator(BatchEvaluator):
  """Resizes predictions to the size of the files and computes panoptic quality and extra scores.

  Attributes:
    result: The last result: that of PanopticQuality.result, and name -> result of each extra score.
  """
  title = 'panoptic quality'
  scores = tuple(f'{group}/{name}' for group in ('All', 'Things', 'Stuff')
                 for name in ('pq', 'sq', 'rq', 'n'))

  def __init__(self, *, dataset_info: DatasetInfo, normalization: Normalization,
               extra_scores: Sequence[ExtraScore] = (),
               on_sample: Optional[Callable[[int, Sample], None]] = None,
               num_images: Optional[int] = None, resize_rule: ResizeRule = 'aligned',
               logits_rule: ResizeRule = 'aligned', at_full_size: Optional[Callable] = None,
               **loop: Any):
    """Initializes the evaluator.

    Args:
      dataset_info: The classes.
      normalization: Normalization of the images.
      extra_scores: Scores besides panoptic quality.
      on_sample: Function that is called with (position, Sample) for each image of this worker.
      num_images: Number of first samples that have an `image`; None for all.
      resize_rule: Rule by which the images were resized.
      logits_rule: Rule by which the network's logits are resized to its input.
      at_full_size: Function of (outputs, FullSize) that post-processes images at the size of their
        files; None if `predict` post-processes.
      **loop: Arguments of BatchEvaluator; batches are EvaluationBatch, predictions QueryOutputs
        with `at_full_size`, else PanopticPrediction, or ScoredPrediction if an extra score needs
        the queries.
    """
    super().__init__(**loop)
    self._dataset_info = dataset_info
    self._normalization = normalization
    self._extra = tuple(extra_scores)
    self.scores = (*self.scores, *(f'{score.name}/{tag}' for score in self._extra
                                   for tag in score.tags))
    self._on_sample = on_sample
    self._num_images = num_images if on_sample is not None else 0
    self._resize_rule = resize_rule
    self._logits_rule = logits_rule
    self._restore_step = tf.function(resize_back.to_raw_size, autograph=False,
                                     reduce_retracing=True)
    self._at_full_size = at_full_size and tf.function(at_full_size, autograph=False,
                                                      reduce_retracing=True)

  def format_result(self) -> str:
    """Returns the result as a table, with a line for each value of the extra scores."""
    lines = [format_result(self.result)]
    for tag, value in self._extra_scalars(self.result).items():
      if not tag.endswith('/n'):
        lines.append(f'{tag:<24}{100 * value:6.1f}')
    return '\n'.join(lines)

  def _new_metric(self) -> Group:
    return Group({_PANOPTIC: PanopticQuality(self._dataset_info.categories),
                  **{score.name: score.new_metric() for score in self._extra}})

  def _result(self, metric: Group) -> dict:
    result = metric.result()
    return {**result.pop(_PANOPTIC), **result}

  def _score_batch(self, metric: Group, batch: EvaluationBatch, prediction,
                   position: int) -> None:
    for i in range(batch.images.shape[0]):
      image = self._scored_image(batch, prediction, i)
      panoptic_map = image.prediction.panoptic_map[0].numpy()
      metric.parts[_PANOPTIC].update_from_label_maps(image.ground_truth, panoptic_map,
                                                     self._dataset_info)
      for score in self._extra:
        score.update(metric.parts[score.name], image)
      if self._on_sample is not None:
        pixels = None
        if self._num_images is None or position + i < self._num_images:
          pixels = resized_back(batch, i, self._normalization)
        self._on_sample(position + i, Sample(image.name, pixels, image.ground_truth, panoptic_map))

  def _scalars(self, result: dict) -> dict:
    return {**flat_scalars(result), **self._extra_scalars(result)}

  def _extra_scalars(self, result: dict) -> dict:
    return {tag: value for score in self._extra
            for tag, value in score.scalars(result[score.name]).items()}

  def _scored_image(self, batch: EvaluationBatch, prediction, i: int) -> ScoredImage:
    """Returns image i of a batch, at the size of its file."""
    raw_size, resized_size = batch.raw_size[i], batch.resized_size[i]
    height, width = raw_size.numpy()
    own = tf.nest.map_structure(lambda x: x[i:i + 1], prediction)
    size = FullSize(tf.constant(batch.images.shape[1:3]), resized_size, raw_size,
                    self._resize_rule)
    if isinstance(own, QueryOutputs):
      queries, restored = own, self._at_full_size(own._asdict(), size)
    else:
      panoptic, queries = own if isinstance(own, ScoredPrediction) else (own, None)
      restored = self._restore_step(panoptic, resized_size, raw_size, self._resize_rule)
    return ScoredImage(batch.name[i].numpy().decode(), batch.label[i].numpy()[:height, :width],
                       restored, queries, size, self._logits_rule)


def resized_back(batch: EvaluationBatch, i: int, normalization: Normalization) -> np.ndarray:
  """Returns the network's input at the size of the file, uint8 [height, width, 3]."""
  rows, columns = batch.resized_size[i].numpy()
  image = normalization.invert(batch.images[i, :rows, :columns])
  image = tf.image.resize(image, batch.raw_size[i]).numpy()
  return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _on_host(value: tf.Tensor) -> tf.Tensor:
  """Copies a prediction to the host's memory, where maps of any size fit."""
  with tf.device('/cpu:0'):
    return tf.identity(value)


def flat_scalars(result: dict) -> dict:
  """Returns 'All/pq' and so on from a PanopticQuality result, without unavailable values."""
  return {f'{group}/{name}': value for group in ('All', 'Things', 'Stuff')
          for name, value in result[group].items() if value is not None}
