"""Evaluates a model on the evaluation data, for Orbit's Controller; the part of all tasks."""

import abc
from typing import Any, Callable, Iterable, NamedTuple, Optional, Union

import numpy as np
import orbit
import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import label_maps
from deeplab_tf.data.image_normalization import Normalization
from deeplab_tf.layers.resizing import ResizeRule
from deeplab_tf.metrics.accumulator import Accumulator
from deeplab_tf.postprocessing import resize_back
from deeplab_tf.postprocessing.full_size import FullSize
from deeplab_tf.structures import EvaluationBatch
from deeplab_tf.training import distribution, replicated_prediction
from deeplab_tf.training.signals import Stopped
from deeplab_tf.visualization.instances import Instances


class Sample(NamedTuple):
  """One evaluated image, at the size of its file.

  Attributes:
    name: Name of the file, without extension.
    image: uint8 [height, width, 3], the network's input resized to the size of the file; None if
      it is not needed.
    ground_truth: Panoptic map, int32 [height, width], or Instances.
    prediction: Panoptic map, int32 [height, width], or Instances.
  """
  name: str
  image: Optional[np.ndarray]
  ground_truth: Union[np.ndarray, Instances]
  prediction: Union[np.ndarray, Instances]


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


class EvaluatedImage(NamedTuple):
  """One image of a batch, to be scored at the size of its file.

  Attributes:
    name: Name of the file, without extension.
    label: Ground truth at the size of the file: int32 [height, width], panoptic map, or an
      InstanceLabel of numpy arrays.
    prediction: Prediction of the devices, batch of one.
    size: The image's sizes.
  """
  name: str
  label: Any
  prediction: Any
  size: FullSize

  @property
  def raw_size(self) -> tuple[int, int]:
    """Height and width of the file."""
    return tuple(self.size.raw_size.numpy().tolist())


class ImageEvaluator(BatchEvaluator):
  """Scores predictions at the size of the files; subclasses do it for one image."""

  def __init__(self, *, dataset_info: DatasetInfo, normalization: Normalization,
               on_sample: Optional[Callable[[int, Sample], None]] = None,
               num_images: Optional[int] = None, resize_rule: ResizeRule = 'aligned',
               at_full_size: Optional[Callable] = None, **loop: Any):
    """Initializes the evaluator.

    Args:
      dataset_info: The classes.
      normalization: Normalization of the images.
      on_sample: Function that is called with (position, Sample) for each image of this worker.
      num_images: Number of first samples that have an `image`; None for all.
      resize_rule: Rule by which the images were resized.
      at_full_size: Function of (outputs, FullSize) that post-processes images at the size of their
        files; None if `predict` post-processes.
      **loop: Arguments of BatchEvaluator; batches are EvaluationBatch, predictions QueryOutputs
        with `at_full_size`, else the task's prediction.
    """
    super().__init__(**loop)
    self._dataset_info = dataset_info
    self._normalization = normalization
    self._on_sample = on_sample
    self._num_images = num_images if on_sample is not None else 0
    self._resize_rule = resize_rule
    self._restore_step = tf.function(resize_back.to_raw_size, autograph=False,
                                     reduce_retracing=True)
    self._at_full_size = at_full_size and tf.function(at_full_size, autograph=False,
                                                      reduce_retracing=True)

  def _score_batch(self, metric: Any, batch: EvaluationBatch, prediction: Any,
                   position: int) -> None:
    for i in range(batch.images.shape[0]):
      height, width = batch.raw_size[i].numpy()
      image = EvaluatedImage(
          batch.name[i].numpy().decode(),
          label_maps.of_image(batch.label, i, height, width),
          tf.nest.map_structure(lambda x, i=i: x[i:i + 1], prediction),
          FullSize(tf.constant(batch.images.shape[1:3]), batch.resized_size[i],
                   batch.raw_size[i], self._resize_rule))
      shown = self._score_image(metric, image)
      if self._on_sample is not None:
        pixels = None
        if self._num_images is None or position + i < self._num_images:
          pixels = resized_back(batch, i, self._normalization)
        self._on_sample(position + i, Sample(image.name, pixels, *shown))

  @abc.abstractmethod
  def _score_image(self, metric: Any, image: EvaluatedImage) -> tuple[Any, Any]:
    """Adds an image to the score; returns ground truth and prediction as a Sample has them."""

  def _restored(self, image: EvaluatedImage, prediction: Any) -> Any:
    """Returns the prediction of an image at the size of its file."""
    if self._at_full_size is not None:
      return self._at_full_size(prediction._asdict(), image.size)
    return self._restore_step(prediction, image.size.resized_size, image.size.raw_size,
                              self._resize_rule)


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
