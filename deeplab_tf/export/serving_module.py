"""The exported program: from uint8 images of any size to predictions, in TensorFlow ops only.

  resize, normalize and pad as in evaluation -> network -> post-processing -> cut off the
  padding -> resize to the size of the image -> list the remaining segments

Post-processing that makes maps at the size of the image itself does the last three steps with
logits instead of maps.
"""

from typing import Callable, NamedTuple, Optional, Sequence

import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import models
from deeplab_tf.compat import keras
from deeplab_tf.data import pipeline
from deeplab_tf.data.records import encoded_images
from deeplab_tf.layers import folding
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.postprocessing import full_size, resize_back
from deeplab_tf.structures import PanopticPrediction
from deeplab_tf.tasks import Task

_MAP = tf.TensorSpec([None, None], tf.int32)


class ServingModule(tf.Module):
  """The exported program.

  Attributes:
    augmentation: Sizes and normalization of the network's input.
  """

  def __init__(self, network: Callable, variables: Sequence[tf.Variable], postprocess: Callable,
               augmentation: pipeline.Augmentation):
    """Initializes the module.

    Args:
      network: Function of normalized images that returns raw outputs. It is not a Keras layer,
        which would be saved with the functions of all its layers.
      variables: Variables that the network reads.
      postprocess: Function of (outputs, output_size) that returns the task's prediction.
      augmentation: Sizes and normalization; without a crop size the network's input has the
        (resized and padded) size of the images.
    """
    super().__init__()
    self._network = network
    self._saved_variables = list(variables)
    self._postprocess = postprocess
    self.augmentation = augmentation

  # === Signatures ===

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, 'images')],
               autograph=False)
  def predict(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Segments images of one size.

    Args:
      images: uint8 [batch, height, width, 3], RGB; the batch is not empty.

    Returns:
      The fields of the task's prediction. For PanopticPrediction: maps [batch, height, width], and
      lists of segments that are padded with -1 at the end.

    Raises:
      tf.errors.InvalidArgumentError: At run time, if the images have another shape.
    """
    return self._predict(_checked(
        images, r'([1-9]\d*, ){3}3', 'uint8 [batch, height, width, 3], RGB, at least one image of '
        'at least one pixel', {r'\d+, \d+, [34]': ': put a single image into a batch of one'}))

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, 'encoded_images')],
               autograph=False)
  def predict_encoded(self, encoded_images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Segments JPEG or PNG files, string [batch], whose images have one size; see `predict`.

    An image that exceeds deeplab_tf.formats.image_limits is rejected before it is decoded.

    Raises:
      tf.errors.InvalidArgumentError: At run time, if a file is not an image, images have several
        sizes, or the batch is empty.
    """
    encoded_images = _checked(encoded_images, r'[1-9]\d*', 'string [batch], at least one file',
                              {r'': ': put a single file into a batch of one'})
    first = _decode(encoded_images[0])
    size = tf.shape(first)[:2]

    def decode(index):
      image = tf.cond(index == 0, lambda: first, lambda: _decode(encoded_images[index]))
      own = tf.shape(image)[:2]
      numbers = [tf.strings.as_string(number) for number in (size[0], size[1], own[0], own[1])]
      problem = tf.strings.join([
          'encoded_images holds images of ', numbers[0], 'x', numbers[1], ' and of ', numbers[2],
          'x', numbers[3], ' pixels (height x width): the images of a batch must have one size; '
          'send the others in batches of their own'])
      return _require(tf.reduce_all(own == size), image, problem)

    return self._predict(tf.map_fn(decode, tf.range(tf.size(encoded_images)),
                                   fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8)))

  def _predict(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    inputs, resized_size = self.prepare(images)
    raw_size = tf.shape(images)[1:3]
    if isinstance(self._postprocess, full_size.FullSizePostprocessor):
      prediction = self._postprocess.at_full_size(
          self._network(inputs),
          full_size.FullSize(dimensions(inputs)[1:3], resized_size, raw_size,
                             self.augmentation.resize_rule))
      if isinstance(prediction, PanopticPrediction):
        prediction = compact_segments(prediction)
      return prediction._asdict()
    return self._restore(self.predict_prepared(inputs), resized_size, raw_size)

  # === Steps ===

  def prepare(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the network's input, and the size of the images inside the padding, int32 [2]."""

    height, width = self.augmentation.crop_size or (None, None)
    prepare = lambda image: pipeline.prepare_for_evaluation(image, self.augmentation)  # noqa: E731
    inputs, sizes = tf.map_fn(prepare, images, fn_output_signature=(
        tf.TensorSpec([height, width, 3], tf.float32), tf.TensorSpec([2], tf.int32)))
    return inputs, sizes[0]

  def predict_prepared(self, inputs: tf.Tensor) -> NamedTuple:
    """Segments the network's own input, float32 [batch, height, width, 3], at its size."""
    return self._postprocess(self._network(inputs), dimensions(inputs)[1:3])

  def _restore(self, prediction, resized_size, raw_size):
    """Returns maps at the size of the images, and the segments that remain in them."""
    if not isinstance(prediction, PanopticPrediction):
      return self._restore_maps(prediction, resized_size, raw_size)._asdict()
    segments = prediction.segment_ids.shape[1]

    def restore(of_image):
      restored = resize_back.to_raw_size(
          PanopticPrediction(*(x[None] for x in of_image)), resized_size, raw_size,
          self.augmentation.resize_rule)
      return tuple(x[0] for x in compact_segments(restored))

    maps = [_MAP] * 3
    lists = [tf.TensorSpec([segments], dtype) for dtype in (tf.int32, tf.int32, tf.float32)]
    restored = tf.map_fn(restore, tuple(prediction), fn_output_signature=(*maps, *lists))
    return PanopticPrediction(*restored)._asdict()

  def _restore_maps(self, prediction, resized_size, raw_size):
    """Returns a prediction that consists of maps at the size of the images."""
    def restore(of_image):
      restored = resize_back.to_raw_size(
          type(prediction)(*(x[None] for x in of_image)), resized_size, raw_size,
          self.augmentation.resize_rule)
      return tuple(x[0] for x in restored)

    return type(prediction)(*tf.map_fn(restore, tuple(prediction),
                                       fn_output_signature=(_MAP,) * len(prediction)))


def _checked(value: tf.Tensor, pattern: str, needed: str, hints: dict) -> tf.Tensor:
  """Returns the input of a signature with a check of its shape, whose message is a sentence.

  TensorFlow does not check the shape of a signature in a call, but assumes it when it optimizes
  graphs. The shape is therefore compared as text, which is not optimized away.

  Args:
    value: The input.
    pattern: Regular expression of valid shapes as text; a shape is e.g. '2, 65, 81, 3'.
    needed: Description of the valid shape.
    hints: Pattern of an invalid shape -> advice.
  """
  shape = tf.strings.reduce_join(tf.strings.as_string(tf.shape(value)), separator=', ')
  problem = tf.strings.join([f'{value.op.name} has shape [', shape, f'] and needs to be {needed}'])
  for wrong, hint in hints.items():
    is_it = tf.strings.regex_full_match(shape, wrong)
    problem = tf.strings.join([problem, tf.where(is_it, hint, '')])
  return _require(tf.strings.regex_full_match(shape, pattern), value, problem)


def _require(condition: tf.Tensor, value: tf.Tensor, problem: tf.Tensor) -> tf.Tensor:
  """Returns a value; at run time this fails with a message unless a condition holds."""
  with tf.control_dependencies([tf.debugging.Assert(condition, [problem])]):
    return tf.identity(value)


def _decode(encoded):
  problem = encoded_images.problem(encoded)
  return encoded_images.decode(_require(problem == '', encoded, problem))


def compact_segments(prediction: PanopticPrediction) -> PanopticPrediction:
  """Removes the segments without pixels in the map and moves the others to the front.

  Args:
    prediction: Prediction for a batch.
  """
  ids = prediction.segment_ids
  # Values of different images are told apart by multiples of 2^32.
  image = tf.range(dimensions(ids)[0], dtype=tf.int64) * 2**32
  values, _ = tf.unique(tf.reshape(
      tf.cast(prediction.panoptic_map, tf.int64) + image[:, None, None], [-1]))
  of_image = tf.cast(ids, tf.int64) + image[:, None]
  listed = (ids >= 0) & tf.reduce_any(of_image[..., None] == values, axis=-1)
  order = tf.argsort(tf.cast(~listed, tf.int32), axis=1, stable=True)

  def compact(x):
    return tf.gather(tf.where(listed, x, tf.cast(-1, x.dtype)), order, batch_dims=1)

  return prediction._replace(segment_ids=compact(ids),
                             segment_classes=compact(prediction.segment_classes),
                             segment_scores=compact(prediction.segment_scores))


# --- From a config ----------------------------------------------------------------------------


def build_network(config, dataset_info) -> keras.Model:
  """Builds a segmentation model without the parts that only training uses.

  Raises:
    ConfigError: The config classifies whole images.
  """
  config_lib.require_segmentation(config, 'inference')
  return models.architecture(config).build(config, dataset_info, for_inference=True)


def build(config, dataset_info, model: keras.Model, network: Optional[Callable] = None,
          task: Optional[Task] = None, semantic_scores: bool = False) -> ServingModule:
  """Builds the module of an experiment, and folds the batch norms of its network.

  Args:
    config: ExperimentOptions; eval_dataset_options has the sizes, model_options the normalization,
      evaluator_options the post-processing.
    dataset_info: The classes of the network.
    model: The network, from `build_network`, with its final weights. It is modified; see
      layers.folding.
    network: Function that is called instead of the model; None for the model at inference.
    task: The task, which may differ from that of the training; None for that of the config.
    semantic_scores: Whether a semantic segmentation has the scores of all classes too.

  Raises:
    ConfigError: The model does not do the task, or has no such scores.
  """
  folding.fold_norms(model)
  network = network or models.inference_network(config, model)
  postprocess = models.architecture(config).build_postprocessor(config, dataset_info, task=task)
  if semantic_scores:
    if not hasattr(postprocess, 'with_scores'):
      raise config_lib.ConfigError(
          'semantic_scores: only a mask2former for task SEMANTIC returns the scores of all '
          'classes, without eval_scales and add_flipped_images; leave them out')
    postprocess = postprocess.with_scores()
  return ServingModule(network, model.variables, postprocess,
                       pipeline.evaluation_augmentation(config))
