"""Turns the outputs of Mask2Former into instances (Mask2Former's `instance_inference`).

The most probable pairs of a query and a class are instances, so a query may be several instances of
different classes, and masks may overlap. The score of an instance is its class probability times
the mean mask probability inside its mask.
"""

from typing import Callable, Sequence, Union

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.postprocessing.full_size import FullSize, resize_function
from deeplab_tf.postprocessing.query_maps import AT_A_TIME
from deeplab_tf.structures import InstancePrediction

# Number of pairs that are selected, before those of stuff classes are dropped.
MOST_INSTANCES = 100
# Added to the area of a mask in its mean probability, as in the released code.
_EPSILON = 1e-6


class Mask2FormerInstances:
  """Callable from raw outputs to an InstancePrediction."""

  def __init__(self, classes: DatasetInfo, count: int = MOST_INSTANCES):
    """Initializes the post-processing; all shapes are static, as XLA requires.

    Args:
      classes: The classes of `class_logits`. Instances of stuff classes are dropped.
      count: Number of pairs that are selected.
    """
    self.classes = classes
    self.count = count

  def __call__(self, outputs: dict[str, tf.Tensor],
               output_size: Sequence[Dimension]) -> InstancePrediction:
    """Post-processes a batch.

    Args:
      outputs: `mask_logits` [batch, h, w, queries] and `class_logits` [batch, queries,
        classes + 1] of the network.
      output_size: Height and width of the masks: the network's input size.
    """
    return self._post_process(outputs, tuple(output_size))

  def at_full_size(self, outputs: dict[str, tf.Tensor],
                   full_size: FullSize) -> InstancePrediction:
    """Post-processes images of the same sizes, with masks of the size of their files."""
    return self._post_process(outputs, full_size.unstacked())

  def _post_process(self, outputs, size: Union[Sequence[Dimension], FullSize]):
    class_logits = tf.cast(outputs['class_logits'], tf.float32)
    height, width = size.raw_size if isinstance(size, FullSize) else size
    static = [n if isinstance(n, int) else None for n in (height, width)]
    rows = min(self.count, class_logits.shape[1] * (class_logits.shape[2] - 1))

    def one_image(arguments):
      mask_logits, logits = arguments
      query, class_index, probability = self._select(logits, rows)
      masks, quality = _masks(mask_logits, query, resize_function(mask_logits, size, 'half_pixel'))
      return masks, query, class_index, probability * quality

    masks, query, class_index, score = tf.map_fn(
        one_image, (tf.cast(outputs['mask_logits'], tf.float32), class_logits),
        fn_output_signature=(tf.TensorSpec([rows, *static], tf.uint8),
                             tf.TensorSpec([rows], tf.int32), tf.TensorSpec([rows], tf.int32),
                             tf.TensorSpec([rows])), parallel_iterations=1)
    is_instance = query >= 0
    class_ids = tf.gather(tf.constant(self.classes.class_ids, tf.int32), class_index)
    return InstancePrediction(
        instance_masks=masks, instance_boxes=boxes(masks),
        instance_classes=tf.where(is_instance, class_ids, -1),
        instance_scores=tf.where(is_instance, score, -1.0))

  def _select(self, class_logits: tf.Tensor, rows: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Selects pairs of a query and a class.

    Returns:
      int32 [rows], the query, -1 in unused rows at the end; int32 [rows], the class index; and
      float32 [rows], the class probability, descending.
    """
    probabilities = tf.nn.softmax(class_logits)[:, :-1]
    classes = probabilities.shape[1]
    best, pair = tf.math.top_k(tf.reshape(probabilities, [-1]), rows)
    kept = tf.gather(tf.constant(self.classes.is_thing), pair % classes)
    order = tf.argsort(tf.cast(~kept, tf.int32), stable=True)
    kept, pair = tf.gather(kept, order), tf.gather(pair, order)
    return tf.where(kept, pair // classes, -1), pair % classes, tf.gather(best, order)


def _masks(logits: tf.Tensor, query: tf.Tensor,
           resize: Callable[[tf.Tensor], tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
  """Makes the masks of one image, with a few of them at full resolution in float32 at a time.

  Args:
    logits: float32 [h, w, queries].
    query: int32 [rows], -1 in unused rows.
    resize: Function that resizes [h, w, n] to the size of the masks.

  Returns:
    uint8 [rows, height, width], 1 where the logit is above 0; and float32 [rows], the mean mask
    probability inside the mask, 0 if it is empty.
  """
  rows = dimensions(query)[0]
  parts = -(-rows // AT_A_TIME)
  numbers = tf.reshape(tf.pad(query, [[0, parts * AT_A_TIME - rows]], constant_values=-1),
                       [parts, AT_A_TIME])

  def some(own):
    full = resize(tf.gather(logits, tf.maximum(own, 0), axis=2))
    inside = (full > 0) & (own >= 0)
    total = tf.reduce_sum(tf.where(inside, tf.sigmoid(full), 0.0), [0, 1])
    area = tf.reduce_sum(tf.cast(inside, tf.float32), [0, 1])
    return tf.cast(tf.transpose(inside, [2, 0, 1]), tf.uint8), total / (area + _EPSILON)

  masks, quality = tf.map_fn(some, numbers, fn_output_signature=(tf.uint8, tf.float32),
                             parallel_iterations=1)
  _, _, height, width = dimensions(masks)
  return (tf.reshape(masks, [-1, height, width])[:rows], tf.reshape(quality, [-1])[:rows])


def boxes(masks: tf.Tensor) -> tf.Tensor:
  """Returns the boxes around masks.

  Args:
    masks: uint8 [..., height, width], 1 inside.

  Returns:
    float32 [..., 4], (y1, x1, y2, x2) in pixels, where (y2, x2) is the corner behind the last
    pixel; zeros for empty masks.
  """
  edges = []
  for axis in (-1, -2):
    # Rows that have a pixel, or columns.
    used = tf.cast(tf.reduce_max(masks, axis), tf.int32)
    length = dimensions(used)[-1]
    positions = tf.range(length)
    first = tf.reduce_min(tf.where(used > 0, positions, length), -1)
    last = tf.reduce_max(tf.where(used > 0, positions + 1, 0), -1)
    edges += [tf.minimum(first, last), last]
  y1, y2, x1, x2 = edges
  return tf.cast(tf.stack([y1, x1, y2, x2], -1), tf.float32)
