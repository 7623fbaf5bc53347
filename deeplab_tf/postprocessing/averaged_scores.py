"""Averages the class scores of Mask2Former over sizes of an image and mirrored images.

The released code calls this test-time augmentation of semantic models: each pass of the network
resizes, mirrors and pads the image in its own way and leads to scores of all classes at the size of
the file, which are mirrored back and averaged before the argmax. Only the logits of all passes are
kept, at a quarter of the size of each input; the scores are made of them a few rows at a time.
"""

from typing import Callable, NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.compat import keras
from deeplab_tf.layers.resizing import interpolation_matrix
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.postprocessing.bands import BAND, join
from deeplab_tf.postprocessing.full_size import FullSize
from deeplab_tf.structures import SemanticPrediction

# Rule by which the released code resizes mask logits and scores.
_RULE = 'half_pixel'


class ScorePass(NamedTuple):
  """A pass of the network over an image.

  Attributes:
    prepare: Function of an image, uint8 [height, width, 3], that returns the network's input,
      float32 [h, w, 3]: resized, normalized and padded at the bottom and on the right.
    sizes: Function of the size of an image, int32 [2], that returns the size of the network's input
      and that of the resized image inside of it, int32 [2] each.
    is_flipped: Whether the image is mirrored first.
  """
  prepare: Callable[[tf.Tensor], tf.Tensor]
  sizes: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
  is_flipped: bool


class AllPasses:
  """Callable from images of the size of their files to the outputs of all passes."""

  def __init__(self, model: keras.Model, passes: Sequence[ScorePass],
               invert_normalization: Callable[[tf.Tensor], tf.Tensor]):
    """Initializes the passes.

    Args:
      model: Network with outputs `mask_logits` and `class_logits`.
      passes: The passes.
      invert_normalization: Function of normalized images that returns values in [0, 255].
    """
    self._passes = passes
    self._invert = invert_normalization

    # One function for inputs of all sizes, so that a graph contains the network once. If TensorFlow
    # copied it to each call, optimizing the graph of twelve passes would take minutes.
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3])],
                 experimental_attributes={'_noinline': True})
    def run(inputs):
      outputs = model(inputs, training=False)
      return outputs['mask_logits'], outputs['class_logits']

    self._run = run

  def __call__(self, images: tf.Tensor) -> dict[str, tuple[tf.Tensor, ...]]:
    """Returns the outputs of the passes.

    Args:
      images: float32 [batch, height, width, 3], normalized, neither resized nor padded.

    Returns:
      `mask_logits`, float32 [batch, h, w, queries] for each pass, where h and w differ, and
      `class_logits`, float32 [batch, queries, classes + 1] for each pass.
    """
    # Pixels are whole numbers, so rounding restores them exactly.
    images = tf.cast(tf.round(self._invert(images)), tf.uint8)
    mask_logits, class_logits = [], []
    for one in self._passes:
      # One pass after the other: together they would take the memory of all.
      with tf.control_dependencies(class_logits[-1:]):
        inputs = tf.identity(images)
      inputs = tf.map_fn(one.prepare, tf.reverse(inputs, [2]) if one.is_flipped else inputs,
                         fn_output_signature=tf.TensorSpec([None, None, 3], tf.float32))
      masks, classes = self._run(inputs)
      mask_logits.append(masks)
      class_logits.append(classes)
    return {'mask_logits': tuple(mask_logits), 'class_logits': tuple(class_logits)}


class AveragedScores:
  """Callable from the outputs of AllPasses to a SemanticPrediction."""

  def __init__(self, classes: DatasetInfo, passes: Sequence[ScorePass]):
    """Initializes the post-processing.

    Args:
      classes: The classes of `class_logits`.
      passes: The passes of AllPasses.
    """
    self.classes = classes
    self._passes = passes

  def __call__(self, outputs: dict[str, tuple[tf.Tensor, ...]],
               output_size: Sequence[Dimension]) -> SemanticPrediction:
    """Post-processes a batch; see `at_full_size`.

    Args:
      outputs: Outputs of AllPasses.
      output_size: Height and width of the images.
    """
    return self.at_full_size(outputs, FullSize(output_size, output_size, output_size))

  def at_full_size(self, outputs: dict[str, tuple[tf.Tensor, ...]],
                   full_size: FullSize) -> SemanticPrediction:
    """Post-processes images of one size, with maps of the size of their files.

    Args:
      outputs: Outputs of AllPasses.
      full_size: Sizes, of which only that of the files is used.
    """
    raw_size = tf.convert_to_tensor(full_size.raw_size)
    probabilities = tuple(tf.nn.softmax(logits)[..., :-1] for logits in outputs['class_logits'])
    class_index = tf.map_fn(
        lambda arguments: self._class_map(*arguments, raw_size),
        (outputs['mask_logits'], probabilities), parallel_iterations=1,
        fn_output_signature=tf.TensorSpec([None, None], tf.int32))
    return SemanticPrediction(tf.gather(tf.constant(self.classes.class_ids, tf.int32), class_index))

  def _class_map(self, mask_logits, probabilities, raw_size):
    """Returns class indices of one image, int32 [*raw_size].

    Args:
      mask_logits: float32 [h, w, queries] for each pass.
      probabilities: float32 [queries, classes] for each pass.
      raw_size: int32 [2].
    """
    resizings = [_Resizing(dimensions(logits)[:2], one, raw_size)
                 for logits, one in zip(mask_logits, self._passes)]

    def one_band(number):
      total = tf.zeros([])
      for logits, class_probabilities, resizing in zip(mask_logits, probabilities, resizings):
        with tf.control_dependencies([total]):
          logits = tf.identity(logits)
        total += resizing.scores(logits, class_probabilities, number)
      return tf.argmax(total, -1, tf.int32)  # That of the mean.

    count = (raw_size[0] + BAND - 1) // BAND
    bands = tf.map_fn(one_band, tf.range(count), parallel_iterations=1,
                      fn_output_signature=tf.int32)
    return join(bands, raw_size[0])


class _Resizing:
  """From mask logits of a pass to scores at the size of the file, a few rows at a time."""

  def __init__(self, logits_size, one: ScorePass, raw_size):
    input_size, resized_size = (tf.unstack(size) for size in one.sizes(raw_size))
    # Logits are resized to the network's input, whose padding is cut off, and scores to the file.
    self._to_input = [interpolation_matrix(*sizes, _RULE)[:resized] for *sizes, resized in zip(
        logits_size, input_size, resized_size)]
    self._to_raw = [interpolation_matrix(*sizes, _RULE)
                    for sizes in zip(resized_size, tf.unstack(raw_size))]
    if one.is_flipped:
      self._to_raw[1] = self._to_raw[1][::-1]

  def scores(self, logits, class_probabilities, band):
    """Returns float32 [BAND, raw width, classes], with zeros beyond the height of the file."""
    rows = self._to_raw[0][band * BAND:(band + 1) * BAND]
    rows, used = _narrowed(rows)
    inner_rows, inner_used = _narrowed(self._to_input[0][used])
    wide = tf.einsum('hwq,xw->hxq', logits[inner_used], self._to_input[1])
    masks = tf.sigmoid(tf.einsum('yh,hxq->yxq', inner_rows, wide))
    scores = tf.einsum('yxq,qc->yxc', masks, class_probabilities)
    scores = tf.einsum('yxc,zx->yzc', tf.einsum('yh,hxc->yxc', rows, scores), self._to_raw[1])
    return tf.pad(scores, [[0, BAND - tf.shape(rows)[0]], [0, 0], [0, 0]])


def _narrowed(matrix):
  """Returns a matrix without the columns before and after its weights, and their slice."""
  used = tf.where(tf.reduce_any(matrix != 0, 0))[:, 0]
  columns = slice(used[0], used[-1] + 1)
  return matrix[:, columns], columns
