"""The PQ-style loss of matched and unmatched queries (MaX-DeepLab, equations 6 to 12).

Where the released code differs from the paper we follow the code: the dice loss adds 1 to
numerator and denominator; both terms are divided by the number of queries; the weights of
equation 10 are at least 1e-5; the "no object" loss of an unmatched query is weighted by the share
of its mask on unlabeled pixels (the weight is 1 in equation 11 and with 'all_unmatched').
"""

from typing import NamedTuple

import tensorflow as tf

from deeplab_tf.losses import reduction
from deeplab_tf.matching import cost

SIMILARITIES = ('rq_times_sq', 'rq_plus_sq')
NEGATIVES = ('void_overlap', 'all_unmatched')
# Weight of matched queries in equation 12.
_ALPHA = 0.75
_LEAST_WEIGHT = 1e-5


class Overlaps(NamedTuple):
  """Overlaps of predicted and ground-truth masks: sums of predicted probabilities over pixels.

  Attributes:
    joint: float32 [batch, queries, masks], sum inside each ground-truth mask.
    on_labeled: float32 [batch, queries], sum over labeled pixels, including crowd.
    on_void: float32 [batch, queries], sum over unlabeled pixels.
    area: float32 [batch, masks], areas of the ground-truth masks in pixels.
  """
  joint: tf.Tensor
  on_labeled: tf.Tensor
  on_void: tf.Tensor
  area: tf.Tensor


class Matched(NamedTuple):
  """The matched pairs and their similarities, without gradient.

  Attributes:
    pairs: float32 [batch, queries, masks], 1 where a query is matched with a mask, else 0.
    mask_confidence: float32 [batch, masks], the matched query's probability of the mask's class.
    query_dice: float32 [batch, queries], dice of the query and its matched mask.
    query_matched: bool [batch, queries], whether the query is matched.
  """
  pairs: tf.Tensor
  mask_confidence: tf.Tensor
  query_dice: tf.Tensor
  query_matched: tf.Tensor


def overlaps(probabilities: tf.Tensor, mask_ids: tf.Tensor, labeled: tf.Tensor,
             masks: int) -> Overlaps:
  """Computes the overlaps of predicted and ground-truth masks.

  Args:
    probabilities: float32 [batch, pixels, queries], which sum to 1 over the queries.
    mask_ids: int32 [batch, pixels], the mask of each pixel; -1 for none.
    labeled: bool [batch, pixels], whether the pixel is labeled; crowd is labeled and has no mask.
    masks: Number of masks.
  """
  labeled = tf.cast(labeled, tf.float32)
  shares = tf.stack([labeled, 1. - labeled], axis=2)
  on_labeled, on_void = tf.unstack(tf.matmul(shares, probabilities, transpose_a=True), axis=1)
  return Overlaps(
      joint=cost.mask_overlap(probabilities, mask_ids, masks),
      on_labeled=on_labeled,
      on_void=on_void,
      area=cost.mask_areas(mask_ids, masks))


def similarities(found: Overlaps, class_logits: tf.Tensor,
                 mask_classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns both factors of equation 6, without gradient: RQ (class probability) and SQ (dice).

  Args:
    found: The overlaps of masks.
    class_logits: float32 [batch, queries, classes + 1]; the last is "no object".
    mask_classes: int32 [batch, masks], class indices, -1 in unused rows.

  Returns:
    (RQ, SQ), each float32 [batch, queries, masks] in [0, 1].
  """
  recognition = cost.class_similarity(tf.nn.softmax(class_logits), mask_classes)
  segmentation = cost.dice(found.joint, found.on_labeled, found.area)
  return tf.stop_gradient(recognition), tf.stop_gradient(segmentation)


def matching_costs(recognition: tf.Tensor, segmentation: tf.Tensor, similarity: str) -> tf.Tensor:
  """Returns negated similarities (equation 7): the product, or the sum (table 6), of RQ and SQ."""
  if similarity == 'rq_plus_sq':
    return -(recognition + segmentation)
  return -(recognition * segmentation)


def matched(matching: tf.Tensor, recognition: tf.Tensor, segmentation: tf.Tensor) -> Matched:
  """Looks up the similarities of the matched pairs.

  Args:
    matching: int32 [batch, masks], the query of each mask; -1 for none.
    recognition: RQ, float32 [batch, queries, masks] in [0, 1].
    segmentation: SQ, float32 [batch, queries, masks] in [0, 1].
  """
  pairs = tf.one_hot(matching, recognition.shape[1], axis=1)
  return Matched(
      pairs=pairs,
      mask_confidence=tf.reduce_sum(recognition * pairs, axis=1),
      query_dice=tf.reduce_sum(segmentation * pairs, axis=2),
      query_matched=tf.reduce_any(pairs > 0., axis=2))


def dice_term(found: Overlaps, match: Matched, similarity: str) -> tf.Tensor:
  """Returns the dice loss of matched masks, weighted by class confidence (equation 10, first sum).

  Only pixels of ground-truth masks count: a query may also cover crowd and unlabeled pixels.

  Returns:
    float32 [batch], multiplied by alpha / number of queries.
  """
  queries = found.joint.shape[1]
  joint = tf.reduce_sum(found.joint * match.pairs, axis=1)
  on_masks = tf.reduce_sum(found.joint, axis=2, keepdims=True)
  predicted_area = tf.reduce_sum(on_masks * match.pairs, axis=1)
  losses = 1. - (2. * joint + 1.) / (predicted_area + found.area + 1.)
  weights = tf.reduce_sum(match.pairs, axis=1)
  if similarity == 'rq_times_sq':
    weights *= tf.maximum(match.mask_confidence, _LEAST_WEIGHT)
  return _ALPHA / queries * tf.reduce_sum(weights * losses, axis=1)


def class_term(found: Overlaps, match: Matched, class_logits: tf.Tensor,
               mask_classes: tf.Tensor, similarity: str, negatives: str) -> tf.Tensor:
  """Returns the class cross-entropy of all queries.

  That of matched queries is weighted by dice (equation 10); the class of unmatched queries is "no
  object" (equation 11).

  Args:
    found: The overlaps of masks.
    match: The matched pairs.
    class_logits: float32 [batch, queries, classes + 1]; the last is "no object".
    mask_classes: int32 [batch, masks], class indices, -1 in unused rows.
    similarity: One of SIMILARITIES.
    negatives: One of NEGATIVES.

  Returns:
    float32 [batch], weighted by alpha and 1 - alpha, averaged over the queries.
  """
  matched_class = tf.reduce_sum(
      tf.cast(match.pairs, tf.int32) * mask_classes[:, tf.newaxis], axis=2)
  no_object = class_logits.shape[2] - 1
  labels = tf.where(match.query_matched, matched_class, no_object)
  losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, class_logits)
  positive = negative = tf.ones_like(match.query_dice)
  if similarity == 'rq_times_sq':
    positive = tf.maximum(match.query_dice, _LEAST_WEIGHT)
  if negatives == 'void_overlap':
    share = found.on_void / (found.on_labeled + found.on_void + 1e-5)
    negative = tf.maximum(tf.stop_gradient(share), _LEAST_WEIGHT)
  weights = tf.where(match.query_matched, _ALPHA * positive, (1. - _ALPHA) * negative)
  return reduction.top_k_mean(weights * losses)
