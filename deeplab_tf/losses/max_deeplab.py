"""MaX-DeepLab's criterion: matching, PQ-style loss and auxiliary losses (sections 3.2, 3.4).

The losses equal DeepLab2's, except for masks that stay unmatched because there are more masks than
queries. DeepLab2 assigns their class to query 0 and their pixels to a query with logit -99999. Here
these masks and their pixels are left out of all terms that need a query.
"""

from typing import NamedTuple, Optional

import tensorflow as tf

from deeplab_tf import matching as matchers
from deeplab_tf.losses import criterion, instance_discrimination, mask_id, pq_style, semantic
from deeplab_tf.losses.criterion import LossTerm
from deeplab_tf.losses.pixel_loss import subsample
from deeplab_tf.matching import cost
from deeplab_tf.structures import MaskTargets
from deeplab_tf.user_errors import ConfigError

_DEFAULT_TERM = LossTerm()
_DEFAULT_MASK_ID_TERM = LossTerm(0.3)


class MaXDeepLabCriterion(criterion.PerImageCriterion):
  """Computes the losses of MaX-DeepLab from its outputs and targets."""

  def __init__(self, ignore_label: int,
               pq_style_weight: float = 3.0,
               mask_id_term: LossTerm = _DEFAULT_MASK_ID_TERM,
               instance_discrimination_term: LossTerm = _DEFAULT_TERM,
               semantic_term: LossTerm = _DEFAULT_TERM,
               sample_k: int = 0,
               sample_temperature: float = 0.6,
               similarity: str = 'rq_times_sq',
               negatives: str = 'void_overlap',
               solver: str = 'scipy'):
    """Initializes the criterion.

    Args:
      ignore_label: Class id of unlabeled pixels.
      pq_style_weight: Factor of both PQ-style terms, at least 0.
      mask_id_term: Options of the mask-ID cross-entropy.
      instance_discrimination_term: Options of instance discrimination.
      semantic_term: Options of the semantic cross-entropy.
      sample_k: Number of pixels sampled per image for the pixel-contrastive form of instance
        discrimination; 0 for equations 16 and 17.
      sample_temperature: Exponent that favors pixels of small masks in the sampling.
      similarity: 'rq_times_sq' (equation 6), or 'rq_plus_sq' (table 6; no dynamic weights).
      negatives: Weight of "no object" for unmatched queries: 'void_overlap' (DeepLab2) or
        'all_unmatched' (equation 11).
      solver: Matching solver, 'scipy' or 'native' (needed under XLA).

    Raises:
      ValueError: A choice is unknown.
    """
    for name, value, choices in (('similarity', similarity, pq_style.SIMILARITIES),
                                 ('negatives', negatives, pq_style.NEGATIVES),
                                 ('solver', solver, tuple(matchers.SOLVERS))):
      if value not in choices:
        raise ConfigError(f'unknown {name} "{value}": use one of {", ".join(choices)}.')
    self._ignore_label = ignore_label
    self._pq_style_weight = pq_style_weight
    self._mask_id_term = mask_id_term
    self._instance_term = instance_discrimination_term
    self._semantic_term = semantic_term
    self._sample_k = sample_k
    self._sample_temperature = sample_temperature
    self._similarity = similarity
    self._negatives = negatives
    self._solver = solver
    self._weights = {
        'pq_style_loss_mask_dice_term': pq_style_weight,
        'pq_style_loss_class_term': pq_style_weight,
        'mask_id_cross_entropy_loss': mask_id_term.weight,
        'instance_discrimination_loss': instance_discrimination_term.weight,
        'semantic_loss': semantic_term.weight,
    }

  def image_losses(self, outputs: dict[str, tf.Tensor], targets: MaskTargets,
                   matching: Optional[tf.Tensor] = None) -> criterion.CriterionResult:
    """Returns the losses of each image.

    The resolution of the targets may be higher than that of the outputs by a whole stride.

    Args:
      outputs: float; `mask_logits` [batch, h, w, queries], `class_logits` [batch, queries,
        classes + 1], and, unless their terms have weight 0, `pixel_features` [batch, h, w,
        channels] and `semantic_logits` [batch, h', w', semantic classes].
      targets: Targets of the images.
      matching: int32 [batch, masks], the query of each mask, -1 for none; None to solve the
        matching.

    Raises:
      ValueError: The sizes of outputs and targets do not fit.
    """
    outputs = {name: tf.cast(outputs[name], tf.float32) for name in self.outputs_used(outputs)}
    matched = self.match(outputs, targets, matching)
    losses, weights, statistics = self.terms(outputs, targets, matched)
    images = tf.shape(matched.costs)[:1]
    total = tf.add_n(list(losses.values()) or [tf.zeros(images)])
    statistics = {name: tf.stop_gradient(value) for name, value in statistics.items()}
    checks = criterion.are_finite({**outputs, 'matching_costs': matched.costs, **losses})
    return criterion.CriterionResult(losses, weights, total, statistics, checks)

  def match(self, outputs: dict[str, tf.Tensor], targets: MaskTargets,
            matching: Optional[tf.Tensor] = None) -> 'MatchedTargets':
    """Compares the outputs with the targets and matches them; see `image_losses`."""
    scaled = _read_targets(targets, self._ignore_label, *outputs['mask_logits'].shape[1:3])
    found, recognition, segmentation = _compare(outputs, scaled)
    costs = pq_style.matching_costs(recognition, segmentation, self._similarity)
    if matching is None:
      # `checks` reports costs that are not finite; here they must not stop either solver.
      finite_costs = tf.where(tf.math.is_finite(costs), costs, 0.)
      matching = matchers.match(finite_costs, scaled.real, self._solver)
    pairs = pq_style.matched(matching, recognition, segmentation)
    return MatchedTargets(scaled, found, costs, matching, pairs)

  def terms(self, outputs: dict[str, tf.Tensor], targets: MaskTargets,
            matched: 'MatchedTargets') -> tuple[dict, dict, dict]:
    """Returns the weighted terms, float32 [batch]; their weights; and statistics, float32 []."""
    scaled, match = matched.scaled, matched.pairs
    losses = {}
    statistics = _matching_statistics(match)
    if self._pq_style_weight:
      losses.update(self._pq_style(matched.found, match, outputs['class_logits'], scaled))
    if self._mask_id_term.weight:
      loss, statistics['mask_id_accuracy'] = self._mask_id(
          outputs['mask_logits'], scaled, matched.matching)
      losses['mask_id_cross_entropy_loss'] = loss
    if self._instance_term.weight:
      loss, statistics['instance_discrimination_accuracy'] = self._instance_discrimination(
          outputs['pixel_features'], scaled)
      losses['instance_discrimination_loss'] = loss
    if self._semantic_term.weight:
      losses['semantic_loss'] = self._semantic(outputs['semantic_logits'], targets)
    return losses, {name: self._weights[name] for name in losses}, statistics

  def mask_terms(self, mask_logits: tf.Tensor, matched: 'MatchedTargets') -> dict[str, tf.Tensor]:
    """Returns the terms of other masks of the same queries that need no classes.

    They are the dice term, with the weights of the matching, and the mask-ID cross-entropy.

    Args:
      mask_logits: float32 [batch, h, w, queries], in the resolution of those that were matched.
      matched: The matching.
    """
    losses = {}
    if self._pq_style_weight:
      losses['pq_style_loss_mask_dice_term'] = self._pq_style_weight * pq_style.dice_term(
          _overlaps(mask_logits, matched.scaled), matched.pairs, self._similarity)
    if self._mask_id_term.weight:
      losses['mask_id_cross_entropy_loss'] = self._mask_id(mask_logits, matched.scaled,
                                                           matched.matching)[0]
    return losses

  def outputs_used(self, outputs: dict[str, tf.Tensor]) -> list[str]:
    """Returns the names of the outputs that the losses read."""
    del outputs  # For subclasses, whose networks have more.
    names = ['mask_logits', 'class_logits']
    if self._instance_term.weight:
      names.append('pixel_features')
    if self._semantic_term.weight:
      names.append('semantic_logits')
    return names

  def _pq_style(self, found: pq_style.Overlaps, match: pq_style.Matched,
                class_logits: tf.Tensor, scaled: 'ScaledTargets') -> dict[str, tf.Tensor]:
    dice_term = pq_style.dice_term(found, match, self._similarity)
    class_term = pq_style.class_term(
        found, match, class_logits, scaled.mask_classes,
        similarity=self._similarity, negatives=self._negatives)
    return {'pq_style_loss_mask_dice_term': self._pq_style_weight * dice_term,
            'pq_style_loss_class_term': self._pq_style_weight * class_term}

  def _mask_id(self, mask_logits: tf.Tensor, scaled: 'ScaledTargets',
               matching: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the weighted loss, float32 [batch], and the accuracy, float32 []."""
    on_mask = scaled.mask_ids >= 0
    queries = tf.gather(matching, tf.maximum(scaled.mask_ids, 0), batch_dims=1)
    queries = tf.where(on_mask, queries, -1)
    has_query = queries >= 0
    # Crowd pixels are included, as in DeepLab2; see MaskIdLoss.
    counted = scaled.labeled & (has_query | ~on_mask)
    loss = mask_id.MaskIdLoss(self._mask_id_term.top_k_percent, reduction='none')
    accuracy = _share(_is_argmax(mask_logits, queries), has_query)
    return self._mask_id_term.weight * loss(queries, mask_logits, counted), accuracy

  def _instance_discrimination(self, features: tf.Tensor,
                               scaled: 'ScaledTargets') -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the weighted loss, float32 [batch], and the accuracy, float32 []."""
    masks = scaled.mask_classes.shape[1]
    top_k_percent = self._instance_term.top_k_percent
    if self._sample_k:
      loss = instance_discrimination.PixelContrastiveLoss(
          masks, self._sample_k, self._sample_temperature, top_k_percent, reduction='none')
      drawn_ids, logits = loss.logits(scaled.mask_ids, features)
      losses = loss.losses(drawn_ids, logits)
      accuracy = _neighbour_accuracy(drawn_ids, logits)
    else:
      loss = instance_discrimination.InstanceDiscriminationLoss(
          masks, top_k_percent, reduction='none')
      logits = loss.logits(scaled.mask_ids, features)
      losses = loss.losses(scaled.mask_ids, logits) * tf.cast(scaled.on_thing, tf.float32)
      accuracy = _share(_is_argmax(logits, scaled.mask_ids), scaled.on_thing)
    return self._instance_term.weight * loss.reduce(losses), accuracy

  def _semantic(self, semantic_logits: tf.Tensor, targets: MaskTargets) -> tf.Tensor:
    loss = semantic.SemanticLoss(
        self._ignore_label, self._semantic_term.top_k_percent, reduction='none')
    return self._semantic_term.weight * loss(
        targets.semantic_map, semantic_logits, targets.semantic_weights)


class ScaledTargets(NamedTuple):
  """Targets at the resolution of the mask logits.

  Attributes:
    mask_ids: int32 [batch, h, w], the mask of each pixel; -1 on unlabeled and crowd pixels.
    labeled: bool [batch, h, w], whether the pixel is labeled, which crowd pixels are.
    on_thing: bool [batch, h, w], whether the pixel belongs to a thing instance.
    mask_classes: int32 [batch, masks], class indices, -1 in unused rows.
    real: bool [batch, masks], whether the mask has a class and a pixel at this resolution.
  """
  mask_ids: tf.Tensor
  labeled: tf.Tensor
  on_thing: tf.Tensor
  mask_classes: tf.Tensor
  real: tf.Tensor


class MatchedTargets(NamedTuple):
  """Targets and their matching with the queries.

  Attributes:
    scaled: The targets.
    found: Overlaps of queries and masks.
    costs: float32 [batch, queries, masks], the matching costs.
    matching: int32 [batch, masks], the query of each mask, -1 for none.
    pairs: The matched pairs.
  """
  scaled: ScaledTargets
  found: pq_style.Overlaps
  costs: tf.Tensor
  matching: tf.Tensor
  pairs: pq_style.Matched


def _read_targets(targets: MaskTargets, ignore_label: int, height: int,
                  width: int) -> ScaledTargets:
  mask_ids = subsample(targets.mask_ids, height, width)
  row = tf.maximum(mask_ids, 0)
  used = targets.mask_classes >= 0
  on_mask = (mask_ids >= 0) & tf.gather(used, row, batch_dims=1)
  mask_ids = tf.where(on_mask, mask_ids, -1)
  flat_ids = tf.reshape(mask_ids, [-1, height * width])
  area = cost.mask_areas(flat_ids, targets.mask_classes.shape[1])
  return ScaledTargets(
      mask_ids=mask_ids,
      labeled=tf.not_equal(subsample(targets.semantic_map, height, width), ignore_label),
      on_thing=on_mask & tf.gather(targets.mask_isthing, row, batch_dims=1),
      mask_classes=targets.mask_classes,
      real=used & (area > 0.5))


def _compare(outputs: dict[str, tf.Tensor],
             scaled: ScaledTargets) -> tuple[pq_style.Overlaps, tf.Tensor, tf.Tensor]:
  found = _overlaps(outputs['mask_logits'], scaled)
  return found, *pq_style.similarities(found, outputs['class_logits'], scaled.mask_classes)


def _overlaps(mask_logits: tf.Tensor, scaled: ScaledTargets) -> pq_style.Overlaps:
  height, width, queries = mask_logits.shape[1:]
  pixels = height * width
  return pq_style.overlaps(
      tf.nn.softmax(tf.reshape(mask_logits, [-1, pixels, queries])),
      tf.reshape(scaled.mask_ids, [-1, pixels]), tf.reshape(scaled.labeled, [-1, pixels]),
      scaled.mask_classes.shape[1])


def _matching_statistics(match: pq_style.Matched) -> dict[str, tf.Tensor]:
  """Returns means over the matched pairs of the batch (figure 4, b and c), and pairs per image."""
  pairs = tf.reduce_sum(match.pairs)
  images = tf.cast(tf.shape(match.pairs)[0], tf.float32)
  return {
      'matched_class_confidence':
          tf.math.divide_no_nan(tf.reduce_sum(match.mask_confidence), pairs),
      'matched_mask_dice': tf.math.divide_no_nan(tf.reduce_sum(match.query_dice), pairs),
      'matched_masks': pairs / images,
  }


def _is_argmax(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
  return tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)


def _share(is_right: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
  """Returns the share of counted elements that are right, float32 [] in [0, 1]; 0 without any."""
  right = tf.math.count_nonzero(is_right & counted, dtype=tf.float32)
  return tf.math.divide_no_nan(right, tf.math.count_nonzero(counted, dtype=tf.float32))


def _neighbour_accuracy(mask_ids: tf.Tensor, similarities: tf.Tensor) -> tf.Tensor:
  """Returns how often the most similar other pixel of the sample has the same mask."""
  pixels = mask_ids.shape[1]
  others = tf.where(tf.eye(pixels, dtype=tf.bool), similarities.dtype.min, similarities)
  nearest = tf.argmax(others, axis=2, output_type=tf.int32)
  has_other = tf.equal(tf.gather(mask_ids, nearest, batch_dims=1), mask_ids)
  return _share(has_other, mask_ids >= 0)
