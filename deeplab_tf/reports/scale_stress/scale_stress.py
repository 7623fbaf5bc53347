"""Scores a trained model at input sizes far from those used in training.

This is the scale stress test of the Axial-DeepLab paper (section 4.2 and figure 4). At each ratio,
the network's input (image and padding) is that many times as large as in evaluation, with the same
weights; the prediction is resized to the original image size and scored there.
"""

import gc
import hashlib
import math
import os
import time
from typing import Any, Callable, Iterable, Optional, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import models
from deeplab_tf.checkpoints.restore import load_checkpoint
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.export import serving_module
from deeplab_tf.formats import image_limits
from deeplab_tf.layers.aspp import scaled_pooling
from deeplab_tf.layers.shapes import scaled_size
from deeplab_tf.metrics.panoptic_quality import PanopticQuality
from deeplab_tf.postprocessing import full_size
from deeplab_tf.reports.scale_stress import scale_results
from deeplab_tf.training import precision
from deeplab_tf.user_errors import DataError

# About half an octave apart; sides of 128 n + 1 become sides of 16 n + 1.
RATIOS = (0.25, 0.375, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
_LARGEST_INT32 = 2**31 - 1
# Memory for prefetched images; an image of 4097x8193 takes 400 MB.
_PREPARED_BYTES = 2**30
# (images of a ratio, their number or None, ratio, size) -> the images, e.g. with a progress bar.
Progress = Callable[[Iterable, Optional[int], float, tuple[int, int]], Iterable]


class ScaleStress:
  """The stress test of one model; see `run`.

  Attributes:
    found: Measurements so far.
    num_images: Number of images at each ratio, or None if not known in advance.
  """

  def __init__(self, config, name: str, checkpoint: str, num_images: Optional[int] = None):
    """Initializes the test and validates the config; the network is not built yet.

    Args:
      config: ExperimentOptions; eval_dataset_options define images and sizes, evaluator_options
        the post-processing.
      name: Name of the experiment if the config has none.
      checkpoint: Prefix of the checkpoint.
      num_images: Number of images to score at each ratio; None uses the number of images in an
        evaluation of the config.

    Raises:
      ConfigError: The config is for classification, has no crop size, or evaluates no images.
    """
    config_lib.require_segmentation(config, 'the scale stress test')
    self._config = config
    self._info = catalog.from_config(config)
    self._limit = _image_limit(config) if num_images is None else num_images
    if self._limit == 0:
      raise config_lib.ConfigError('evaluator_options.eval_steps is 0, which leaves no image to '
                                   'score: set -1, which is all of them, or give --num_images')
    self._model = None
    options = config.eval_dataset_options
    crop_size = tuple(options.crop_size)
    if not crop_size:
      raise config_lib.ConfigError('eval_dataset_options.crop_size is not set: it takes two '
                                   'values, height and width, which are multiplied by the ratios')
    total = pipeline.count_examples(options)
    self.num_images = None
    # The total includes corrupt images, which are skipped.
    if total is not None and not options.max_damaged_images:
      self.num_images = total if self._limit is None else min(total, self._limit)
    identity = scale_results.Identity(
        _digest(_read(f'{checkpoint}.index')),  # The index contains a checksum of each variable.
        _digest(config.SerializeToString(deterministic=True)),
        self._limit if self.num_images is None else self.num_images)
    self.found = scale_results.StressTest(
        config.experiment_name or name, checkpoint, self._info.name, crop_size, identity)

  def resume(self, path: str) -> None:
    """Reuses the ratios that an earlier run has written to a file, if it exists.

    Args:
      path: Path of the file.

    Raises:
      ValueError: The file belongs to another stress test.
    """
    if not os.path.exists(path):
      return
    earlier = scale_results.read(path)
    pairs = zip(('checkpoint', 'config', 'number of images'), earlier.identity,
                self.found.identity)
    differing = [what for what, theirs, own in pairs if theirs != own]
    if differing:
      raise DataError(f'{path} is of another {" and ".join(differing)} ({earlier.config}, '
                      f'{earlier.checkpoint}): give another folder, or remove the file')
    self.found = self.found._replace(measurements=earlier.measurements)

  def check_ratios(self, ratios: Sequence[float]) -> None:
    """Checks that the network can process the input sizes of the given ratios.

    Args:
      ratios: Ratios of the network's input size to its size in evaluation.

    Raises:
      ValueError: A ratio is too small or too large.
    """
    stride = self._config.model_options.backbone.output_stride
    # If predictions are averaged over scales, the smallest scale is checked.
    scale = min(self._config.evaluator_options.eval_scales, default=1)
    at_scale = '' if scale == 1 else f' at eval_scales {scale:g}'
    side = min(self.found.evaluation_size)
    for ratio in ratios:
      height, width = self._input_size(ratio)
      smallest = scaled_size(height, scale), scaled_size(width, scale)
      if min(smallest) <= stride:
        raise DataError(
            f'ratio {ratio:g} makes the input {smallest[0]}x{smallest[1]}{at_scale}, of which the '
            f'backbone\'s output stride {stride} leaves a single position; give ratios of at least '
            f'{_rounded_up(math.ceil(stride / scale) / max(side - 1, 1))}')
      if height * width > image_limits.MAX_PIXELS:
        raise DataError(f'ratio {ratio:g} makes the input {height}x{width}; give ratios that '
                        f'make at most {image_limits.MAX_PIXELS} pixels')

  def check_comparable(self, other: scale_results.StressTest, ratios: Sequence[float],
                       where: str) -> None:
    """Checks that another model was measured on the same images at some of the ratios.

    Args:
      other: Test of the other model.
      ratios: Ratios at which this model will be measured, besides those in `found`.
      where: Prefix of error messages.

    Raises:
      ValueError: The images differ, or there is no common ratio.
    """
    if other.dataset != self.found.dataset:
      raise DataError(f'{where} is on dataset "{other.dataset}", this test on '
                      f'"{self.found.dataset}"; compare models on the same images')
    for each in other.measurements:
      if self.num_images not in (None, each.images):
        raise DataError(f'{where} is on {each.images} images, this test on {self.num_images}; '
                        'compare models on the same images')
    if not set(other.ratios) & {*ratios, *self.found.ratios}:
      raise DataError(f'{where} has none of the ratios of this test, but '
                      f'{", ".join(f"{ratio:g}" for ratio in other.ratios)}; measure common ones')

  def run(self, ratios: Sequence[float], path: str, progress: Progress) -> None:
    """Measures the missing ratios in ascending order, and adds them to `found`.

    Args:
      ratios: Ratios of the network's input size to its size in evaluation.
      path: Path of the JSON file to which `found` is written after each ratio.
      progress: Function that wraps the loop over the images of a ratio.

    Raises:
      ValueError: The checkpoint belongs to another model, there are no images, or memory is not
        sufficient.
    """
    for ratio in sorted(set(ratios) - set(self.found.ratios)):
      size = self._input_size(ratio)
      try:
        measurement = self._measure(ratio, size, progress)
      except tf.errors.ResourceExhaustedError:
        raise DataError(f'ratio {ratio:g}: an input of {size[0]}x{size[1]} does not fit into '
                        'memory; remove it from the ratios, results of smaller ones are '
                        'kept') from None
      self.found = self.found.with_measurement(measurement)
      scale_results.write(path, self.found)
      # The graph of a size holds large constants and has reference cycles.
      gc.collect()

  def _input_size(self, ratio: float) -> tuple[int, int]:
    height, width = self.found.evaluation_size
    return scaled_size(height, ratio), scaled_size(width, ratio)

  def _measure(self, ratio, size, progress) -> scale_results.Measurement:
    config = type(self._config)()
    config.CopyFrom(self._config)
    # Large images need a batch size of 1; small ones use it too, so that times are comparable.
    config.eval_dataset_options.batch_size = 1
    samples = pipeline.eval_dataset(config, self._info, ratio=ratio)
    if self._limit is not None:
      samples = samples.take(self._limit)
    options = tf.data.Options()
    options.autotune.ram_budget = _PREPARED_BYTES
    samples = samples.with_options(options)
    predict = self._predict_function(ratio, size)
    metric, seconds = PanopticQuality(self._info.categories), []
    for sample in progress(samples, self.num_images, ratio, size):
      start = time.perf_counter()
      panoptic_map = predict(sample.images, sample.resized_size[0], sample.raw_size[0]).numpy()
      seconds.append(time.perf_counter() - start)
      metric.update_from_label_maps(sample.label[0].numpy(), panoptic_map, self._info)
    if not seconds:
      raise DataError('eval_dataset_options: the dataset contains no images; there is nothing to '
                      'score')
    scores = metric.result()
    # TensorFlow optimizes the graph at its first run.
    typical = float(np.median(seconds[1:] or seconds))
    return scale_results.Measurement(ratio, size, len(seconds), typical,
                                     {group: scores[group] for group in scale_results.GROUPS})

  def _predict_function(self, ratio, size) -> Callable[..., tf.Tensor]:
    """Returns a function from a prepared image and its sizes to the panoptic map in raw size."""
    model = self._loaded_model()
    network = models.inference_network(self._config, model)
    config = scaled_postprocessing(self._config, ratio)
    postprocess = models.architecture(config).build_postprocessor(config, self._info)
    rule = pipeline.evaluation_augmentation(config).resize_rule

    def predict(images, resized_size, raw_size):
      with scaled_pooling(model, ratio):
        outputs = network(images)
      sizes = full_size.FullSize(size, resized_size, raw_size, rule)
      return full_size.predict(postprocess, outputs, sizes).panoptic_map[0]

    pair = tf.TensorSpec([2], tf.int32)
    return tf.function(predict, autograph=False).get_concrete_function(
        tf.TensorSpec([1, *size, 3], tf.float32), pair, pair)

  def _loaded_model(self) -> keras.Model:
    if self._model is None:
      options = self._config.trainer_options
      # The precision is the same as in evaluation.
      with precision.scope(options.Precision.Name(options.precision)):
        self._model = serving_module.build_network(self._config, self._info)
      load_checkpoint(self._model, self.found.checkpoint)
    return self._model


def scaled_postprocessing(config, ratio: float):
  """Returns the config with post-processing options for scaled inputs.

  The area limits are in pixels of the network's input, where a segment has ratio**2 times as many
  pixels as in evaluation. They are scaled accordingly, so that the same segments are removed. All
  other options are unchanged, including the window of the non-maximum suppression of centers, since
  the paper mentions no change.

  Args:
    config: ExperimentOptions.
    ratio: Ratio of the input size to its size in evaluation.
  """
  scaled = type(config)()
  scaled.CopyFrom(config)
  options = scaled.evaluator_options
  for name in ('thing_area_limit', 'stuff_area_limit'):
    limit = round(getattr(options, name) * ratio**2)
    setattr(options, name, min(limit, _LARGEST_INT32))
  return scaled


def _image_limit(config) -> Optional[int]:
  """Returns the number of images that an evaluation scores, or None for all."""
  steps = config.evaluator_options.eval_steps
  return None if steps < 0 else steps * config.eval_dataset_options.batch_size


def _rounded_up(ratio: float) -> str:
  """Returns a ratio rounded up to three decimals."""
  return f'{math.ceil(1000 * ratio) / 1000:g}'


def _read(path: str) -> bytes:
  with open(path, 'rb') as file:
    return file.read()


def _digest(content: Any) -> str:
  return hashlib.sha256(content).hexdigest()[:16]
