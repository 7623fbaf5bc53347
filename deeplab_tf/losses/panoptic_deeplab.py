"""Panoptic-DeepLab's criterion: semantic, center and offset losses (section 3.3), as in DeepLab2.

All three are computed at the resolution of the targets, to which predictions are interpolated.
"""

import tensorflow as tf

from deeplab_tf.layers.resizing import resize_bilinear, resize_offsets
from deeplab_tf.losses import criterion, semantic
from deeplab_tf.losses.criterion import LossTerm
from deeplab_tf.losses.pixel_loss import PixelLoss
from deeplab_tf.structures import CenterTargets


class CenterLoss(PixelLoss):
  """Squared error of heatmaps [batch, height, width, 1]."""

  def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, height, width]."""
    return tf.math.squared_difference(tf.cast(y_pred, tf.float32), y_true)[..., 0]


class OffsetLoss(PixelLoss):
  """Absolute error of offsets [batch, height, width, 2], averaged over y and x."""

  def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, height, width]."""
    errors = tf.abs(tf.cast(y_pred, tf.float32) - y_true)
    # Not reduce_mean: TensorFlow is slow on a last dimension of 2.
    return 0.5 * (errors[..., 0] + errors[..., 1])


_SEMANTIC_TERM = LossTerm(1.0, 0.2)
_CENTER_TERM = LossTerm(200.0)
_OFFSET_TERM = LossTerm(0.01)


class PanopticDeepLabCriterion(criterion.PerImageCriterion):
  """Computes the losses of Panoptic-DeepLab from its outputs and targets."""

  def __init__(self, ignore_label: int, semantic_term: LossTerm = _SEMANTIC_TERM,
               center_term: LossTerm = _CENTER_TERM, offset_term: LossTerm = _OFFSET_TERM):
    """Initializes the criterion.

    Args:
      ignore_label: Class id of unlabeled pixels.
      semantic_term: Options of the cross-entropy; the default's top 20 % is the paper's
        bootstrapping.
      center_term: Options of the mean squared error of the heatmap.
      offset_term: Options of the absolute error of the offsets in pixels.
    """
    self._terms = {
        'semantic_loss': semantic_term, 'center_loss': center_term, 'regression_loss': offset_term}
    self._semantic = semantic.SemanticLoss(ignore_label, semantic_term.top_k_percent, 'none')
    self._center = CenterLoss(center_term.top_k_percent, 'none', 'center_loss')
    self._offset = OffsetLoss(offset_term.top_k_percent, 'none', 'regression_loss')
    self._ignore_label = ignore_label

  def image_losses(self, outputs: dict[str, tf.Tensor],
                   targets: CenterTargets) -> criterion.CriterionResult:
    """Returns the losses of each image.

    Args:
      outputs: float; `semantic_logits` [batch, h, w, classes], `center_heatmap` [batch, h, w, 1]
        and `center_offsets` [batch, h, w, 2] in pixels of this map; those whose term has weight 0
        may be missing.
      targets: Targets of the images, with static height and width.
    """
    size = targets.semantic_map.shape[1:3]
    losses, statistics, used = {}, {}, {}
    if self._terms['semantic_loss'].weight:
      used['semantic_logits'] = outputs['semantic_logits']
      logits = resize_bilinear(tf.cast(outputs['semantic_logits'], tf.float32), size)
      losses['semantic_loss'] = self._semantic(targets.semantic_map, logits,
                                               targets.semantic_weights)
      statistics['semantic_accuracy'] = self._accuracy(logits, targets.semantic_map)
    if self._terms['center_loss'].weight:
      used['center_heatmap'] = outputs['center_heatmap']
      heatmap = resize_bilinear(tf.cast(outputs['center_heatmap'], tf.float32), size)
      losses['center_loss'] = self._center(targets.center_heatmap, heatmap,
                                           targets.center_weights)
    if self._terms['regression_loss'].weight:
      used['center_offsets'] = outputs['center_offsets']
      offsets = resize_offsets(tf.cast(outputs['center_offsets'], tf.float32), size)
      losses['regression_loss'] = self._offset(targets.center_offsets, offsets,
                                               targets.offset_weights)
      statistics['offset_error'] = _mean_distance(offsets, targets)
    weights = {name: self._terms[name].weight for name in losses}
    losses = {name: weights[name] * loss for name, loss in losses.items()}
    total = tf.add_n(list(losses.values()) or [tf.zeros_like(targets.semantic_weights[:, 0, 0])])
    statistics = {name: tf.stop_gradient(value) for name, value in statistics.items()}
    checks = criterion.are_finite({**used, **losses})
    return criterion.CriterionResult(losses, weights, total, statistics, checks)

  def _accuracy(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns the share of labeled pixels with the right class, float32 []."""
    labeled = tf.not_equal(labels, self._ignore_label)
    right = labeled & tf.equal(tf.argmax(logits, -1, tf.int32), labels)
    return tf.math.divide_no_nan(tf.math.count_nonzero(right, dtype=tf.float32),
                                 tf.math.count_nonzero(labeled, dtype=tf.float32))


def _mean_distance(offsets: tf.Tensor, targets: CenterTargets) -> tf.Tensor:
  """Returns the mean distance of predicted and true centers of pixels of instances, in pixels."""
  errors = offsets - targets.center_offsets
  distances = tf.sqrt(tf.square(errors[..., 0]) + tf.square(errors[..., 1]))
  weights = targets.offset_weights
  return tf.math.divide_no_nan(tf.reduce_sum(distances * weights), tf.reduce_sum(weights))
