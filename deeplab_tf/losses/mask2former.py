"""Mask2Former's criterion: matching and losses at sampled points (section 3.3).

Each prediction of the decoder has a matching of its own. Masks are compared at points alone: at
uniform ones in the matching, and in the loss of a matched pair mostly at those where the predicted
mask is the most uncertain. ComparisonOptions also has comparisons of whole masks (table 5) and the
focal loss, as in MaskFormer (Cheng et al., "Per-pixel classification is not all you need for
semantic segmentation", 2021).

The losses equal those of the released code, except that the number of masks and the sum of class
weights are those of the whole batch, where the released code has the mean number of masks per
process, and each process the sum of its own weights. Ground-truth masks without pixels, of segments
that a crop loses, are matched and counted on request only; the released code always does so.
"""

from typing import Literal, NamedTuple, Optional, Sequence, get_args

import tensorflow as tf

from deeplab_tf import mask_values
from deeplab_tf import matching as matchers
from deeplab_tf.layers import randomness, recomputation
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.losses import criterion, mask_comparison, matched_pairs, point_sampling
from deeplab_tf.losses.mask_comparison import Comparison, Focal
from deeplab_tf.mask_values import AnyMaskTargets
from deeplab_tf.structures import split_layers
from deeplab_tf.user_errors import ConfigError

# Number of masks of an image for which points are drawn at once: fewer are slow, more need memory.
_AT_A_TIME = 16

Layer = dict[str, tf.Tensor]
ComparedAt = Literal['points', 'masks']


class Points(NamedTuple):
  """The points at which one prediction of the decoder is compared, in place of drawn ones.

  What is compared at masks needs no points.

  Attributes:
    matching: float32 [batch, points, 2], points of the matching costs.
    drawn: float32 [batch, pairs, drawn, 2], points from which those of the loss are selected. Pairs
      are in the order of the masks; see `Mask2FormerCriterion.num_pairs`.
    others: float32 [batch, pairs, others, 2], the other points of the loss.
  """
  matching: Optional[tf.Tensor] = None
  drawn: Optional[tf.Tensor] = None
  others: Optional[tf.Tensor] = None


class ComparisonOptions(NamedTuple):
  """How predicted masks are compared with ground-truth masks.

  Attributes:
    matching_at: Where they are compared in the matching: 'points', at uniform points, the same for
      all masks of an image; or 'masks', at all pixels of the mask logits, with the nearest values
      of the ground truth.
    loss_at: Where they are compared in the loss: 'points', mostly at those where the predicted
      mask is the most uncertain; or 'masks', at all pixels of the ground truth, with resized
      logits.
    num_points: Number of points; 0: 'points' are the pixels of the mask logits, with interpolated
      values of the ground truth.
    oversample_ratio: Number of points that are drawn for a mask of the loss to select from, as a
      multiple of num_points, at least 1.
    importance_sample_ratio: Share of the points of the loss that are selected, in [0, 1].
    focal: Options of the focal loss of MaskFormer; None for the binary cross-entropy.
  """
  matching_at: ComparedAt = 'points'
  loss_at: ComparedAt = 'points'
  num_points: int = 12544
  oversample_ratio: float = 3.0
  importance_sample_ratio: float = 0.75
  focal: Optional[Focal] = None


_AT_POINTS = ComparisonOptions()


class Mask2FormerCriterion(criterion.Criterion):
  """Computes the losses of Mask2Former from its outputs and targets.

  The outputs are `class_logits` [batch, queries, classes + 1], the last of which is "no object",
  and `mask_logits` [batch, h, w, queries], and those of the earlier predictions of the decoder, as
  `structures.split_layers` names them. Targets are MaskTargets or OverlappingMaskTargets, of any
  size.
  """

  def __init__(self, num_queries: int, *,
               class_weight: float = 2.0,
               mask_weight: float = 5.0,
               dice_weight: float = 5.0,
               no_object_weight: float = 0.1,
               comparison: ComparisonOptions = _AT_POINTS,
               keep_empty_masks: bool = False,
               solver: str = 'scipy'):
    """Initializes the criterion.

    Args:
      num_queries: Number of queries.
      class_weight: Weight of the class cross-entropy, in the loss and in the matching cost.
      mask_weight: Weight of the pixel loss of masks, in the loss and in the cost.
      dice_weight: Weight of the dice loss of masks, in the loss and in the cost.
      no_object_weight: Weight of "no object" among the classes, above 0; the others have 1.
      comparison: How masks are compared.
      keep_empty_masks: Whether rows with a class but without pixels are masks, as in the released
        code; see `data.targets.mask_targets`.
      solver: Matching solver, 'scipy' or 'native' (needed under XLA).

    Raises:
      ConfigError: The solver, or where masks are compared, is unknown.
    """
    _check('solver', solver, matchers.SOLVERS)
    _check('matching_at', comparison.matching_at, get_args(ComparedAt))
    _check('loss_at', comparison.loss_at, get_args(ComparedAt))
    self._num_queries = num_queries
    self._weights = {'class_loss': class_weight, 'mask_loss': mask_weight, 'dice_loss': dice_weight}
    self._no_object_weight = no_object_weight
    self._comparison = comparison
    self._num_points = points = comparison.num_points
    self._drawn = int(points * comparison.oversample_ratio)
    self._others = points - int(comparison.importance_sample_ratio * points)
    self._keep_empty_masks = keep_empty_masks
    self._solver = solver

  def normalizers(self, targets: AnyMaskTargets) -> dict[str, tf.Tensor]:
    """Returns the number of masks and the sum of the class weights of all queries.

    Args:
      targets: Targets of the images.

    Returns:
      `masks` and `class_weights`, float32 []. The number of matched queries of an image is that of
      its masks, or all queries if there are more masks. Every prediction has the same sums.
    """
    are_masks = mask_values.are_masks(targets, self._keep_empty_masks)
    masks = tf.math.count_nonzero(are_masks, axis=1, dtype=tf.float32)
    matched = tf.minimum(masks, self._num_queries)
    weights = matched + self._no_object_weight * (self._num_queries - matched)
    return {'masks': tf.reduce_sum(masks), 'class_weights': tf.reduce_sum(weights)}

  def num_pairs(self, targets: AnyMaskTargets) -> int:
    """Returns the largest number of pairs of an image, which is that of rows for pairs."""
    return min(self._num_queries, targets.mask_classes.shape[1])

  def call(self, outputs: dict[str, tf.Tensor], targets: AnyMaskTargets,
           normalizers: dict[str, tf.Tensor]) -> criterion.CriterionResult:
    """Returns the share of some images in the losses of their batch, with points drawn at random.

    Args:
      outputs: Name -> raw output of the network, [images, ...]; see the class.
      targets: Targets of the images.
      normalizers: `masks` and `class_weights`, float32 [], sums over all images of the batch.
    """
    return self.losses_at(None, outputs, targets, normalizers)

  def losses_at(self, points: Optional[Sequence[Points]], outputs: dict[str, tf.Tensor],
                targets: AnyMaskTargets,
                normalizers: dict[str, tf.Tensor]) -> criterion.CriterionResult:
    """Does what `call` does, with given points.

    Args:
      points: Points of each prediction, from first to last; None to draw them.
      outputs: As for `call`.
      targets: As for `call`.
      normalizers: As for `call`.
    """
    # In mixed precision, too, costs and losses are float32.
    layers = [{name: tf.cast(layer[name], tf.float32) for name in ('class_logits', 'mask_logits')}
              for layer in split_layers(outputs)]
    checks = {f'{name}_{i}': x for i, layer in enumerate(layers) for name, x in layer.items()}
    sources = self._points(len(layers), outputs['mask_logits']) if points is None else [
        {f'{name}_points': x for name, x in own._asdict().items() if x is not None}
        for own in points]
    layers = [{**layer, **source} for layer, source in zip(layers, sources)]
    matching_labels, loss_labels = self._grid_labels(targets, layers[0]['mask_logits'])
    compared = [self._compare(layer, targets, matching_labels) for layer in layers]
    costs = tf.concat([self._cost(found) for found in compared], axis=0)
    pairs = [self._pairs(own) for own in self._match(costs, targets, len(layers))]
    if self._solver == 'scipy':
      pairs = _cut_off_unused(pairs)
    layers = [{**layer, **own} for layer, own in zip(layers, pairs)]

    def losses_of(layer):
      return self._layer_losses(layer, targets, normalizers, loss_labels)

    losses, weights = criterion.losses_of_layers(losses_of, layers, self._weights)
    return criterion.CriterionResult(
        losses, weights, tf.add_n(list(losses.values()) or [tf.zeros([])]),
        mask_comparison.statistics(layers[-1], compared[-1]),
        criterion.are_finite({**checks, 'matching_costs': costs, **losses}))

  # === Points ===

  def _points(self, count: int, mask_logits: tf.Tensor) -> list[Layer]:
    """Returns what each prediction draws its points from; nothing where it needs none."""
    images, found = dimensions(mask_logits)[0], [{} for _ in range(count)]
    for layer in found if self._num_points else ():
      if self._comparison.matching_at == 'points':
        layer['matching_points'] = randomness.uniform([images, self._num_points, 2])
      if self._comparison.loss_at == 'points':
        layer['seeds'] = randomness.image_seeds(images)
    return found

  def _loss_points(self, maps: tf.Tensor, layer: Layer, masks: int) -> tf.Tensor:
    """Returns the points at which the pairs of one prediction are compared.

    Many more points are drawn than kept.

    Args:
      maps: float32 [batch, pairs, h, w], mask logits of the pairs.
      layer: The prediction, with its pairs and its seeds or given points.
      masks: Number of rows for masks.

    Returns:
      float32 [batch, pairs, points, 2], without gradient; of no meaning for pairs that do not
      exist.
    """
    maps = tf.stop_gradient(maps)
    # Random numbers must not depend on whether unused rows are cut off.
    some = min(self._num_queries, masks, _AT_A_TIME)

    def points(image, step, rows):
      drawn, others = self._candidates(layer, image, step, rows)
      return point_sampling.uncertain_points(
          matched_pairs.pick(maps, image, rows), drawn, others, self._num_points)

    return tf.stop_gradient(matched_pairs.in_parts(
        points, layer['is_pair'], some, [self._num_points, 2]))

  def _candidates(self, layer: Layer, image: tf.Tensor, step: tf.Tensor,
                  rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the points to select from, and the others, for some pairs of one image."""
    if 'seeds' not in layer:
      return tuple(matched_pairs.pick(layer[name], image, rows)
                   for name in ('drawn_points', 'others_points'))
    shape = [rows.shape[0], self._drawn + self._others, 2]
    points = randomness.uniform_of(tf.gather(layer['seeds'], image), step, shape)
    return points[:, :self._drawn], points[:, self._drawn:]

  # === Matching ===

  def _grid_labels(self, targets: AnyMaskTargets,
                   mask_logits: tf.Tensor) -> tuple[Optional[tf.Tensor], Optional[tf.Tensor]]:
    """Returns the masks at the pixels of the mask logits, float32 [batch, masks, pixels].

    There are those for the matching and those for the loss; None if it compares elsewhere.
    """
    height, width = mask_logits.shape[1:3]

    def flat(masks):
      masks = tf.cast(tf.reshape(masks, [-1, height * width, masks.shape[3]]), tf.float32)
      return tf.transpose(masks, [0, 2, 1])

    matching_at, loss_at = self._comparison.matching_at, self._comparison.loss_at
    interpolated = None
    if 'points' in (matching_at, loss_at) and not self._num_points:
      interpolated = flat(mask_values.on_grid(targets, height, width))
    nearest = None
    if matching_at == 'masks':
      nearest = flat(mask_values.nearest_on_grid(targets, height, width))
    return (nearest if matching_at == 'masks' else interpolated,
            None if loss_at == 'masks' else interpolated)

  def _compare(self, layer: Layer, targets: AnyMaskTargets,
               labels: Optional[tf.Tensor]) -> Comparison:
    """Compares all queries of one prediction with all masks."""
    logits = layer['mask_logits']
    if labels is None:
      points = layer['matching_points']
      logits, labels = point_sampling.sample(logits, points), mask_values.at_points(targets, points)
    logits = tf.reshape(logits, [tf.shape(logits)[0], -1, self._num_queries])
    return mask_comparison.compare(layer['class_logits'], targets.mask_classes, logits, labels,
                                   self._comparison.focal)

  def _cost(self, compared: Comparison) -> tf.Tensor:
    """Returns the matching costs, float32 [batch, queries, masks]."""
    return (self._weights['class_loss'] * compared.classes
            + self._weights['mask_loss'] * compared.masks
            + self._weights['dice_loss'] * compared.dice)

  def _match(self, costs: tf.Tensor, targets: AnyMaskTargets, count: int) -> list[tf.Tensor]:
    """Matches all predictions by one call of the solver.

    Args:
      costs: float32 [predictions * batch, queries, masks].
      targets: Targets of the images.
      count: Number of predictions.

    Returns:
      int32 [batch, masks] for each prediction, the query of each mask; -1 for none.
    """
    # `checks` reports costs that are not finite; here they must not stop either solver.
    finite = tf.where(tf.math.is_finite(costs), costs, 0.0)
    valid = tf.tile(mask_values.are_masks(targets, self._keep_empty_masks), [count, 1])
    return tf.split(matchers.match(finite, valid, self._solver), count)

  def _pairs(self, matching: tf.Tensor) -> Layer:
    """Lists the matched pairs of one prediction, in the order of the masks, those first.

    Args:
      matching: int32 [batch, masks], the query of each mask; -1 for none.

    Returns:
      `pair_query` and `pair_mask`, int32 [batch, pairs], and `is_pair`, bool [batch, pairs], false
      in unused rows.
    """
    masks = matching.shape[1]
    order = tf.sort(tf.range(masks) + tf.where(matching >= 0, 0, masks), axis=1) % masks
    order = order[:, :min(self._num_queries, masks)]
    query = tf.gather(matching, order, batch_dims=1)
    return {'pair_query': tf.maximum(query, 0), 'pair_mask': order, 'is_pair': query >= 0}

  # === Losses ===

  def _layer_losses(self, layer: Layer, targets: AnyMaskTargets, normalizers: Layer,
                    labels: Optional[tf.Tensor]) -> Layer:
    """Returns the weighted terms of one prediction."""
    losses = {}
    if self._weights['class_loss']:
      losses['class_loss'] = self._class_loss(layer, targets) / normalizers['class_weights']
    if self._weights['mask_loss'] or self._weights['dice_loss']:
      masks = tf.maximum(normalizers['masks'], 1.0)
      pixel_loss, dice = self._mask_losses(layer, targets, labels)
      losses.update(mask_loss=pixel_loss / masks, dice_loss=dice / masks)
    return {name: self._weights[name] * loss for name, loss in losses.items()
            if self._weights[name]}

  def _class_loss(self, layer: Layer, targets: AnyMaskTargets) -> tf.Tensor:
    """Returns the weighted cross-entropy, summed over all queries."""
    logits = layer['class_logits']
    classes = tf.gather(targets.mask_classes, layer['pair_mask'], batch_dims=1)
    pairs = tf.one_hot(tf.where(layer['is_pair'], layer['pair_query'], -1), self._num_queries,
                       axis=1, dtype=tf.int32)
    is_matched = tf.reduce_any(pairs > 0, axis=2)
    matched_class = tf.reduce_sum(pairs * classes[:, tf.newaxis], axis=2)
    labels = tf.where(is_matched, matched_class, logits.shape[2] - 1)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_sum(tf.where(is_matched, 1.0, self._no_object_weight) * losses)

  def _mask_losses(self, layer: Layer, targets: AnyMaskTargets,
                   labels: Optional[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the pixel loss and the dice loss, each summed over the matched pairs."""
    maps = tf.transpose(layer['mask_logits'], [0, 3, 1, 2])
    maps = tf.gather(maps, layer['pair_query'], batch_dims=1)
    focal = self._comparison.focal
    if self._comparison.loss_at == 'masks':
      losses = matched_pairs.full_size_losses(maps, targets, layer['pair_mask'], layer['is_pair'],
                                              focal)
    elif labels is None:
      points = self._loss_points(maps, layer, targets.mask_classes.shape[1])
      labels = mask_values.at_points(targets, points, layer['pair_mask'])
      # The indices and weights of the interpolation take more memory than all other activations.
      logits = recomputation.recompute(lambda x: point_sampling.sample_each(x, points), maps)
      losses = mask_comparison.pair_losses(logits, labels, focal)
    else:
      labels = tf.gather(labels, layer['pair_mask'], batch_dims=1)
      losses = mask_comparison.pair_losses(tf.reshape(maps, tf.shape(labels)), labels, focal)
    return tuple(tf.reduce_sum(tf.where(layer['is_pair'], loss, 0.0)) for loss in losses)


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
  if value not in allowed:
    raise ConfigError(f'unknown {name} "{value}": use one of {", ".join(allowed)}.')


def _cut_off_unused(layers: list[Layer]) -> list[Layer]:
  """Cuts off the rows that are unused in all images, most rows usually.

  Shapes then depend on the number of masks, which XLA does not allow.

  Args:
    layers: The pairs of each prediction; see Mask2FormerCriterion._pairs. All have the same number.
  """
  used = tf.reduce_max(tf.math.count_nonzero(layers[0]['is_pair'], axis=1, dtype=tf.int32))
  # An empty tensor would have no gradient.
  used = tf.maximum(used, 1)
  return [{name: value[:, :used] for name, value in layer.items()} for layer in layers]
