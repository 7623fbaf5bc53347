"""Scores a model on the evaluation data, for Orbit's Controller."""

import abc
from typing import Any, Callable, Iterable, NamedTuple, Optional

import numpy as np
import orbit
import tensorflow as tf

from deeplab_tf.data import pipeline
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.metrics.accumulator import Accumulator
from deeplab_tf.metrics.panoptic_quality import PanopticQuality, format_result
from deeplab_tf.postprocessing import resize_back
from deeplab_tf.structures import EvaluationBatch
from deeplab_tf.training import distribution, replicated_prediction
from deeplab_tf.training.signals import Stopped


class Sample(NamedTuple):
  """One evaluated image, at the size of its file.

  Attributes:
    name: Of the file, without extension.
    image: uint8 [height, width, 3]; made from the network's input, so as sharp as that.
      None where nobody asked for it.
    ground_truth: int32 [height, width], panoptic map.
    prediction: int32 [height, width], panoptic map.
  """
  name: str
  image: Optional[np.ndarray]
  ground_truth: np.ndarray
  prediction: np.ndarray


class BatchEvaluator(orbit.AbstractEvaluator):
  """Predicts batch after batch on all replicas; subclasses know what a prediction is worth.

  Each worker scores its own images; then the counts of all are added up.

  Attributes:
    title: What is scored, for people.
    scores: Names of the scalars of an evaluation.
    result: Of the last evaluation; None before the first.
  """
  title: str
  scores: tuple[str, ...]

  def __init__(self, *, strategy: tf.distribute.Strategy, predict: Callable,
               batches: Callable[[], Iterable], progress: Callable,
               stop_requested: Callable[[], bool] = lambda: False):
    """Initialises the evaluator.

    Args:
      strategy: The devices.
      predict: Images of a batch -> their prediction; see ReplicatedPrediction.
      batches: Returns this worker's evaluation data, from its start.
      progress: Number of batches or None -> a progress.Progress to enter.
      stop_requested: Asked after each batch where there is one worker.
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
    """Evaluates.

    Args:
      num_steps: Batches; -1: all.

    Returns:
      Flat scalars for TensorBoard, by `scores`; what is not available (no class or image to
      average over) is left out.

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
    self.result = metric.result()
    return self._scalars(self.result)

  @abc.abstractmethod
  def format_result(self) -> str:
    """Returns the result for people."""

  @abc.abstractmethod
  def _new_metric(self) -> Accumulator:
    """Returns a score that has counted nothing."""

  @abc.abstractmethod
  def _score_batch(self, metric: Any, batch: Any, prediction: Any, position: int) -> None:
    """Counts a batch whose first image is the one at `position` of this worker."""

  @abc.abstractmethod
  def _scalars(self, result: dict) -> dict:
    """Returns the flat scalars of a result."""


class Evaluator(BatchEvaluator):
  """Resizes predictions to the size of the files and counts panoptic quality.

  Attributes:
    result: See PanopticQuality.result.
  """
  title = 'panoptic quality'
  scores = tuple(f'{group}/{name}' for group in ('All', 'Things', 'Stuff')
                 for name in ('pq', 'sq', 'rq', 'n'))

  def __init__(self, *, dataset_info: DatasetInfo,
               on_sample: Optional[Callable[[int, Sample], None]] = None,
               num_images: Optional[int] = None, **loop: Any):
    """Initialises the evaluator.

    Args:
      dataset_info: The classes.
      on_sample: Called with (position, Sample) for each image of this worker.
      num_images: Samples from this position on have no `image`; None: all have it.
      **loop: As BatchEvaluator's; batches are EvaluationBatch, predictions PanopticPrediction.
    """
    super().__init__(**loop)
    self._dataset_info = dataset_info
    self._on_sample = on_sample
    self._num_images = num_images if on_sample is not None else 0
    self._restore_step = tf.function(resize_back.to_raw_size, autograph=False,
                                     reduce_retracing=True)

  def format_result(self) -> str:
    """Returns the result as a table."""
    return format_result(self.result)

  def _new_metric(self) -> PanopticQuality:
    return PanopticQuality(self._dataset_info.categories)

  def _score_batch(self, metric, batch: EvaluationBatch, prediction, position: int) -> None:
    for i in range(batch.images.shape[0]):
      self._score(metric, position + i, self._sample(batch, prediction, i, position + i))

  def _scalars(self, result: dict) -> dict:
    return flat_scalars(result)

  def _sample(self, batch: EvaluationBatch, prediction, i: int, position: int) -> Sample:
    """The image at index i of a batch."""
    raw_size, resized_size = batch.raw_size[i], batch.resized_size[i]
    height, width = raw_size.numpy()
    own = tf.nest.map_structure(lambda x: x[i:i + 1], prediction)
    panoptic_map = self._restore_step(own, resized_size, raw_size).panoptic_map[0]
    image = None
    if self._num_images is None or position < self._num_images:
      rows, columns = resized_size.numpy()
      image = pipeline.denormalize(batch.images[i, :rows, :columns])
      image = tf.image.resize(image, (height, width)).numpy()
      image = np.clip(np.round(image), 0, 255).astype(np.uint8)
    return Sample(batch.name[i].numpy().decode(), image,
                  batch.label[i].numpy()[:height, :width], panoptic_map.numpy())

  def _score(self, metric: PanopticQuality, position: int, sample: Sample) -> None:
    metric.update_from_label_maps(sample.ground_truth, sample.prediction, self._dataset_info)
    if self._on_sample is not None:
      self._on_sample(position, sample)


def _on_host(value: tf.Tensor) -> tf.Tensor:
  """Brings a prediction to the host's memory, where maps of any size fit."""
  with tf.device('/cpu:0'):
    return tf.identity(value)


def flat_scalars(result: dict) -> dict:
  """Returns 'All/pq' and so on of a PanopticQuality result, without what is not available."""
  return {f'{group}/{name}': value for group in ('All', 'Things', 'Stuff')
          for name, value in result[group].items() if value is not None}
