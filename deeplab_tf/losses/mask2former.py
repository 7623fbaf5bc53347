"""Mask2Former's criterion: matching and losses at sampled points (section 3.3).

Each prediction of the decoder has a matching of its own. Masks are compared at points alone: at
uniform ones in the matching, and in the loss of a matched pair mostly at those where the predicted
mask is the most uncertain.

The losses equal those of the released code, except that the number of masks and the sum of class
weights are those of the whole batch, where the released code has the mean number of masks per
process, and each process the sum of its own weights. Ground-truth masks without pixels, of segments
that a crop loses, are matched and counted on request only; the released code always does so.
"""

from typing import NamedTuple, Optional, Sequence

import tensorflow as tf

from deeplab_tf import mask_values
from deeplab_tf import matching as matchers
from deeplab_tf.layers import randomness, recomputation
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.losses import criterion, point_sampling
from deeplab_tf.mask_values import AnyMaskTargets
from deeplab_tf.structures import split_layers
from deeplab_tf.user_errors import ConfigError

# Number of masks of an image for which points are drawn at once: fewer are slow, more need memory.
_AT_A_TIME = 16

Layer = dict[str, tf.Tensor]


class Points(NamedTuple):
  """The points at which one prediction of the decoder is compared, in place of drawn ones.

  Attributes:
    matching: float32 [batch, points, 2], points of the matching costs.
    drawn: float32 [batch, pairs, drawn, 2], points from which those of the loss are selected. Pairs
      are in the order of the masks; see `Mask2FormerCriterion.num_pairs`.
    others: float32 [batch, pairs, others, 2], the other points of the loss.
  """
  matching: tf.Tensor
  drawn: tf.Tensor
  others: tf.Tensor


class Comparison(NamedTuple):
  """Costs of pairs of a query and a mask, without gradient; lower is better.

  Attributes:
    classes: float32 [batch, queries, masks], negated probability of the mask's class.
    masks: float32 [batch, queries, masks], binary cross-entropy, averaged over the points.
    dice: float32 [batch, queries, masks], 1 - dice coefficient.
  """
  classes: tf.Tensor
  masks: tf.Tensor
  dice: tf.Tensor


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
               num_points: int = 12544,
               oversample_ratio: float = 3.0,
               importance_sample_ratio: float = 0.75,
               keep_empty_masks: bool = False,
               solver: str = 'scipy'):
    """Initializes the criterion.

    Args:
      num_queries: Number of queries.
      class_weight: Weight of the class cross-entropy, in the loss and in the matching cost.
      mask_weight: Weight of the binary cross-entropy of masks, in the loss and in the cost.
      dice_weight: Weight of the dice loss of masks, in the loss and in the cost.
      no_object_weight: Weight of "no object" among the classes, above 0; the others have 1.
      num_points: Number of points at which masks are compared; 0 for all pixels of the mask logits.
      oversample_ratio: Number of points that are drawn for a mask of the loss to select from, as a
        multiple of num_points, at least 1.
      importance_sample_ratio: Share of the points of the loss that are selected, in [0, 1].
      keep_empty_masks: Whether rows with a class but without pixels are masks, as in the released
        code; see `data.targets.mask_targets`.
      solver: Matching solver, 'scipy' or 'native' (needed under XLA).

    Raises:
      ConfigError: The solver is unknown.
    """
    if solver not in matchers.SOLVERS:
      raise ConfigError(f'unknown solver "{solver}": use one of {", ".join(matchers.SOLVERS)}.')
    self._num_queries = num_queries
    self._weights = {'class_loss': class_weight, 'mask_loss': mask_weight, 'dice_loss': dice_weight}
    self._no_object_weight = no_object_weight
    self._num_points = num_points
    self._drawn = int(num_points * oversample_ratio)
    self._others = num_points - int(importance_sample_ratio * num_points)
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
        {f'{name}_points': x for name, x in own._asdict().items()} for own in points]
    layers = [{**layer, **source} for layer, source in zip(layers, sources)]
    whole = None if self._num_points else _whole_masks(targets, layers[0]['mask_logits'])
    compared = [self._compare(layer, targets, whole) for layer in layers]
    costs = tf.concat([self._cost(found) for found in compared], axis=0)
    pairs = [self._pairs(own) for own in self._match(costs, targets, len(layers))]
    if self._solver == 'scipy':
      pairs = _cut_off_unused(pairs)
    layers = [{**layer, **own} for layer, own in zip(layers, pairs)]

    def losses_of(layer):
      return self._layer_losses(layer, targets, normalizers, whole)

    losses, weights = criterion.losses_of_layers(losses_of, layers, self._weights)
    return criterion.CriterionResult(
        losses, weights, tf.add_n(list(losses.values()) or [tf.zeros([])]),
        _statistics(layers[-1], compared[-1]),
        criterion.are_finite({**checks, 'matching_costs': costs, **losses}))

  # === Points ===

  def _points(self, count: int, mask_logits: tf.Tensor) -> list[Layer]:
    """Returns what each prediction draws its points from; nothing if all pixels are compared."""
    if not self._num_points:
      return [{}] * count
    images = dimensions(mask_logits)[0]
    return [{'matching_points': randomness.uniform([images, self._num_points, 2]),
             'seeds': randomness.image_seeds(images)} for _ in range(count)]

  def _loss_points(self, maps: tf.Tensor, layer: Layer, masks: int) -> tf.Tensor:
    """Returns the points at which the pairs of one prediction are compared.

    Many more points are drawn than kept. Therefore images are processed one at a time, and only
    pairs that exist, a few of them at once.

    Args:
      maps: float32 [batch, pairs, h, w], mask logits of the pairs.
      layer: The prediction, with its pairs and its seeds or given points.
      masks: Number of rows for masks.

    Returns:
      float32 [batch, pairs, points, 2], without gradient; 0 for pairs that do not exist.
    """
    # Random numbers must not depend on whether unused rows are cut off.
    pairs, some = dimensions(maps)[1], min(self._num_queries, masks, _AT_A_TIME)
    source = {name: layer[name] for name in ('seeds', 'drawn_points', 'others_points')
              if name in layer}

    def one_image(arguments):
      own_maps, is_pair, own_source = arguments
      count = tf.math.count_nonzero(is_pair, dtype=tf.int32)

      def step(i, points):
        rows = tf.minimum(i * some + tf.range(some), pairs - 1)
        drawn, others = self._candidates(own_source, i, rows)
        new = point_sampling.uncertain_points(
            tf.gather(own_maps, rows), drawn, others, self._num_points)
        return i + 1, tf.tensor_scatter_nd_update(points, [[i]], new[tf.newaxis])

      start = (tf.constant(0), tf.zeros([-(-pairs // some), some, self._num_points, 2]))
      points = tf.while_loop(lambda i, _: i * some < count, step, start, parallel_iterations=1)[1]
      return tf.reshape(points, [-1, self._num_points, 2])[:pairs]

    points = tf.map_fn(
        one_image, (tf.stop_gradient(maps), layer['is_pair'], source), parallel_iterations=1,
        fn_output_signature=tf.TensorSpec([maps.shape[1], self._num_points, 2]))
    return tf.stop_gradient(points)

  def _candidates(self, source: Layer, step: tf.Tensor,
                  rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the points to select from, and the others, for some pairs of one image."""
    if 'seeds' not in source:
      return tf.gather(source['drawn_points'], rows), tf.gather(source['others_points'], rows)
    shape = [rows.shape[0], self._drawn + self._others, 2]
    points = randomness.uniform_of(source['seeds'], step, shape)
    return points[:, :self._drawn], points[:, self._drawn:]

  # === Matching ===

  def _compare(self, layer: Layer, targets: AnyMaskTargets,
               whole: Optional[tf.Tensor]) -> Comparison:
    """Compares all queries of one prediction with all masks."""
    logits, labels = layer['mask_logits'], whole
    if whole is None:
      points = layer['matching_points']
      logits, labels = point_sampling.sample(logits, points), mask_values.at_points(targets, points)
    logits = tf.reshape(logits, [tf.shape(logits)[0], -1, self._num_queries])
    return compare(layer['class_logits'], targets.mask_classes, logits, labels)

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
                    whole: Optional[tf.Tensor]) -> Layer:
    """Returns the weighted terms of one prediction."""
    losses = {}
    if self._weights['class_loss']:
      losses['class_loss'] = self._class_loss(layer, targets) / normalizers['class_weights']
    if self._weights['mask_loss'] or self._weights['dice_loss']:
      masks = tf.maximum(normalizers['masks'], 1.0)
      cross_entropy, dice = self._mask_losses(layer, targets, whole)
      losses.update(mask_loss=cross_entropy / masks, dice_loss=dice / masks)
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
                   whole: Optional[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the binary cross-entropy and the dice loss, each summed over the matched pairs."""
    maps = tf.transpose(layer['mask_logits'], [0, 3, 1, 2])
    maps = tf.gather(maps, layer['pair_query'], batch_dims=1)
    if whole is None:
      points = self._loss_points(maps, layer, targets.mask_classes.shape[1])
      labels = mask_values.at_points(targets, points, layer['pair_mask'])
      # The indices and weights of the interpolation take more memory than all other activations.
      logits = recomputation.recompute(lambda x: point_sampling.sample_each(x, points), maps)
    else:
      labels = tf.gather(whole, layer['pair_mask'], batch_dims=1)
      logits = tf.reshape(maps, tf.shape(labels))
    cross_entropy = tf.reduce_mean(
        tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), axis=2)
    probabilities = tf.sigmoid(logits)
    area = tf.reduce_sum(probabilities + labels, axis=2)
    dice = 1.0 - (2.0 * tf.reduce_sum(probabilities * labels, axis=2) + 1.0) / (area + 1.0)
    return tuple(tf.reduce_sum(tf.where(layer['is_pair'], loss, 0.0))
                 for loss in (cross_entropy, dice))


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


def compare(class_logits: tf.Tensor, mask_classes: tf.Tensor, logits: tf.Tensor,
            labels: tf.Tensor) -> Comparison:
  """Compares all queries with all masks.

  Args:
    class_logits: float32 [batch, queries, classes + 1]; the last is "no object".
    mask_classes: int32 [batch, masks], class indices, -1 in unused rows.
    logits: float32 [batch, points, queries], mask logits at points.
    labels: float32 [batch, masks, points] in [0, 1], values of the masks at the same points.
  """

  def product(values, masks):
    return tf.matmul(values, masks, transpose_a=True, transpose_b=True)

  cross_entropy = (product(tf.nn.softplus(-logits), labels)
                   + product(tf.nn.softplus(logits), 1.0 - labels))
  probabilities = tf.sigmoid(logits)
  predicted, actual = tf.reduce_sum(probabilities, axis=1), tf.reduce_sum(labels, axis=2)
  area = predicted[:, :, tf.newaxis] + actual[:, tf.newaxis]
  dice = 1.0 - (2.0 * product(probabilities, labels) + 1.0) / (area + 1.0)
  of_classes = tf.gather(tf.nn.softmax(class_logits), tf.maximum(mask_classes, 0), axis=2,
                         batch_dims=1)
  points = tf.cast(tf.shape(logits)[1], tf.float32)
  return Comparison(*map(tf.stop_gradient, (-of_classes, cross_entropy / points, dice)))


def _whole_masks(targets: AnyMaskTargets, mask_logits: tf.Tensor) -> tf.Tensor:
  """Returns the masks at the pixels of the mask logits, float32 [batch, masks, pixels]."""
  height, width = mask_logits.shape[1:3]
  masks = mask_values.on_grid(targets, height, width)
  return tf.transpose(tf.reshape(masks, [-1, height * width, masks.shape[3]]), [0, 2, 1])


def _statistics(layer: Layer, compared: Comparison) -> dict[str, tf.Tensor]:
  """Returns means over the matched pairs of the last prediction, and the pairs per image."""
  is_pair = tf.cast(layer['is_pair'], tf.float32)
  pairs = tf.reduce_sum(is_pair)

  def mean(values):
    of_query = tf.gather(values, layer['pair_query'], batch_dims=1)
    of_pair = tf.gather(of_query, layer['pair_mask'], batch_dims=2)
    return tf.math.divide_no_nan(tf.reduce_sum(is_pair * of_pair), pairs)

  return {'matched_class_confidence': mean(-compared.classes),
          'matched_mask_dice': mean(1.0 - compared.dice),
          'matched_masks': pairs / tf.cast(tf.shape(is_pair)[0], tf.float32)}
