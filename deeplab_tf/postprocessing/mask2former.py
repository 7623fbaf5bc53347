"""Mask2Former's semantic and instance inference, from the queries and not the panoptic map.

Mask2Former's program computes mIoU_pan and AP^Th_pan from them. Its paper derives both from the
panoptic map (Mask2Former, section 4: masks of one class are merged, things are kept). The published
numbers come from the program, so this module follows it, except for the resizing of masks: the
default here is aligned corners, while the program has half-pixel centers.
"""

from typing import NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.layers.resizing import ResizeRule
from deeplab_tf.postprocessing import bands
from deeplab_tf.postprocessing.full_size import FullSize, resizing_matrices


class QueryMasks(NamedTuple):
  """Masks of all queries at the size of the image file, and the semantic map made of them.

  Attributes:
    semantic_map: int32 [height, width], class indices: argmax over classes of the sum over queries
      of class probability x mask probability.
    packed: uint8 [height, width, ceil(queries / 8)], whether the mask probability is above 1/2: bit
      i of byte j belongs to query 8 j + i. `mask` unpacks one mask.
    quality: float32 [queries] in [0, 1], mean mask probability inside the mask; 0 if it is empty.
  """
  semantic_map: tf.Tensor
  packed: tf.Tensor
  quality: tf.Tensor

  def mask(self, query: int) -> np.ndarray:
    """Returns the mask of a query, bool [height, width]."""
    # Tensor.numpy() would copy the masks of all queries at each call.
    return np.asarray(self.packed)[..., query // 8] >> query % 8 & 1 > 0


class Instances(NamedTuple):
  """Thing instances, the highest class probability first; a query may occur with several classes.

  Attributes:
    query: int32 [instances], the query that the mask belongs to.
    class_index: int32 [instances], class indices.
    score: float32 [instances] in [0, 1], class probability x quality of the mask.
  """
  query: tf.Tensor
  class_index: tf.Tensor
  score: tf.Tensor


def semantic_inference(class_logits: tf.Tensor, mask_logits: tf.Tensor, masks_compete: bool,
                       full_size: Optional[FullSize] = None,
                       rule: ResizeRule = 'aligned') -> QueryMasks:
  """Sums the class scores of one image over its queries, at the size of its file.

  The masks are resized to full resolution in bands of rows. The same pass computes what
  `instance_inference` needs of them.

  Args:
    class_logits: float32 [queries, classes + 1]; the last is "no object".
    mask_logits: float32 [h, w, queries].
    masks_compete: Whether mask probabilities are a softmax over the queries (MaX-DeepLab,
      CMT-DeepLab) or a sigmoid of each query (Mask2Former).
    full_size: Sizes of the image; None if the logits have the image's size.
    rule: Rule of the network, by which mask logits are resized to its input.
  """
  class_probabilities = tf.nn.softmax(class_logits)[:, :-1]
  rows, columns = _matrices(mask_logits, full_size, rule)

  def read_band(logits, is_inside):
    probabilities = tf.nn.softmax(logits) if masks_compete else tf.sigmoid(logits)
    masks = (probabilities > 0.5) & is_inside
    scores = tf.einsum('yxq,qc->yxc', probabilities, class_probabilities)
    inner = tf.where(masks, probabilities, 0.0)
    return (tf.argmax(scores, -1, tf.int32), _packed(masks), tf.reduce_sum(inner, [0, 1]),
            tf.reduce_sum(tf.cast(masks, tf.float32), [0, 1]))

  semantic_map, packed, sums, areas = bands.in_bands(
      mask_logits, rows, columns, read_band, (tf.int32, tf.uint8, tf.float32, tf.float32))
  quality = tf.reduce_sum(sums, 0) / (tf.reduce_sum(areas, 0) + 1e-6)
  height = tf.shape(rows)[0]
  return QueryMasks(bands.join(semantic_map, height), bands.join(packed, height), quality)


def _packed(masks):
  """Packs eight queries into a byte, since masks of a large image take gigabytes otherwise."""
  masks = tf.pad(tf.cast(masks, tf.uint8), [[0, 0], [0, 0], [0, -tf.shape(masks)[2] % 8]])
  bits = tf.reshape(masks, [*tf.unstack(tf.shape(masks)[:2]), -1, 8])
  return tf.reduce_sum(bits * tf.constant([1, 2, 4, 8, 16, 32, 64, 128], tf.uint8), -1)


def instance_inference(class_logits: tf.Tensor, quality: tf.Tensor, is_thing: Sequence[bool],
                       count: int = 100) -> Instances:
  """Selects the most probable pairs of a query and a class, then drops stuff.

  Args:
    class_logits: float32 [queries, classes + 1]; the last is "no object".
    quality: float32 [queries], quality of the masks; see QueryMasks.
    is_thing: For each class, whether it is a thing.
    count: Number of pairs that are selected before stuff is dropped, as in Mask2Former's program.
  """
  probabilities = tf.nn.softmax(class_logits)[:, :-1]
  classes = tf.shape(probabilities)[1]
  flat = tf.reshape(probabilities, [-1])
  best, pair = tf.math.top_k(flat, tf.minimum(count, tf.size(flat)))
  kept = tf.gather(tf.constant(is_thing, tf.bool), pair % classes)
  best, pair = tf.boolean_mask(best, kept), tf.boolean_mask(pair, kept)
  query = pair // classes
  return Instances(query, pair % classes, best * tf.gather(quality, query))


def _matrices(mask_logits, full_size, rule):
  """Returns matrices that resize rows [height, h] and columns [width, w] of logits to the file."""
  size = tf.unstack(tf.shape(mask_logits)[:2])
  if full_size is None:
    return [tf.eye(n) for n in size]
  return resizing_matrices(size, full_size, rule)
