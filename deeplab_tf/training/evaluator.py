"""Scores a model on the evaluation data, for Orbit's Controller."""

from typing import Callable, Iterable, NamedTuple, Optional

import numpy as np
import orbit
import tensorflow as tf

from deeplab_tf.data import pipeline
from deeplab_tf.data.catalog import DatasetInfo
from deeplab_tf.metrics.panoptic_quality import PanopticQuality
from deeplab_tf.postprocessing import resize_back
from deeplab_tf.structures import EvaluationBatch
from deeplab_tf.training import progress as progress_lib


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


class Evaluator(orbit.AbstractEvaluator):
  """Predicts, resizes to the size of the files and counts panoptic quality.

  Attributes:
    result: Of the last evaluation; see PanopticQuality.result. None before the first.
  """

  def __init__(self, *, model: tf.keras.Model, postprocess: Callable, dataset_info: DatasetInfo,
               batches: Callable[[], Iterable[EvaluationBatch]], use_tf_function: bool = True,
               num_batches: Optional[int] = None, batch_size: int = 1,
               on_sample: Optional[Callable[[int, Sample], None]] = None,
               num_images: Optional[int] = None):
    """Initialises the evaluator.

    Args:
      model: The network.
      postprocess: (outputs, output_size) -> PanopticPrediction.
      dataset_info: The classes.
      batches: Returns the evaluation data, from its start.
      use_tf_function: Runs as a graph; eager is slow and for debugging.
      num_batches: What there is of them, for the progress line; None: unknown.
      batch_size: Images per batch, for the images per second.
      on_sample: Called with (position, Sample) for each image.
      num_images: Samples from this position on have no `image`; None: all have it.
    """
    super().__init__()
    self._model = model
    self._postprocess = postprocess
    self._dataset_info = dataset_info
    self._batches = batches
    self._num_batches = num_batches
    self._batch_size = batch_size
    self._on_sample = on_sample
    self._num_images = num_images if on_sample is not None else 0
    self._use_tf_function = use_tf_function
    self._predict_step = None
    self._restore_step = resize_back.to_raw_size
    if use_tf_function:
      self._restore_step = tf.function(resize_back.to_raw_size, autograph=False,
                                       reduce_retracing=True)
    self.result = None

  def evaluate(self, num_steps) -> dict:
    """Evaluates.

    Args:
      num_steps: Batches; -1: all.

    Returns:
      Flat scalars for TensorBoard: 'All/pq', 'Things/sq', ... and 'All/n'; what is not
      available (no class to average over) is left out.
    """
    num_steps = int(num_steps)
    metric = PanopticQuality(self._dataset_info.categories)
    position = 0
    total = self._num_batches
    if num_steps >= 0:
      total = num_steps if total is None else min(num_steps, total)
    with progress_lib.Progress('eval', total, self._batch_size) as progress:
      for step, batch in enumerate(self._batches()):
        if 0 <= num_steps <= step:
          break
        prediction = self._predict_batch(batch.images)
        for i in range(batch.images.shape[0]):
          self._score(metric, position, self._sample(batch, prediction, i, position))
          position += 1
        progress.update(step + 1)
    self.result = metric.result()
    return flat_scalars(self.result)

  def _predict(self, images):
    outputs = self._model(images, training=False)
    return self._postprocess(outputs, tuple(images.shape[1:3]))

  def _predict_batch(self, images):
    if self._predict_step is None:
      self._predict_step = self._predict
      if self._use_tf_function:
        # One trace for the last batch, which may be smaller, too.
        spec = tf.TensorSpec([None, *images.shape[1:]], images.dtype)
        self._predict_step = tf.function(self._predict, input_signature=[spec], autograph=False)
    return self._predict_step(images)

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


def flat_scalars(result: dict) -> dict:
  """Returns 'All/pq' and so on of a PanopticQuality result, without what is not available."""
  return {f'{group}/{name}': value for group in ('All', 'Things', 'Stuff')
          for name, value in result[group].items() if value is not None}
