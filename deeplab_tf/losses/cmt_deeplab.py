"""CMT-DeepLab's criterion: that of MaX-DeepLab, for each clustering layer too (section 3.4).

The matching of the final masks holds for all layers, as in kMaX-DeepLab by the same authors:

  final masks                 all terms of MaX-DeepLab, with the pixel-wise contrastive loss
  assignment of each layer    the terms of masks: dice term and mask-ID cross-entropy
  reference masks             mask approximation loss, the sum over the layers
"""

from typing import Any

import tensorflow as tf

from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.losses import mask_approximation
from deeplab_tf.losses.criterion import LossTerm
from deeplab_tf.losses.max_deeplab import MatchedTargets, MaXDeepLabCriterion
from deeplab_tf.structures import MaskTargets, split_layers

# Start of the names of outputs and losses of the first network of a Recursive Feature Network.
FIRST_NETWORK = 'first_network/'
_DEFAULT_TERM = LossTerm()


class CMTDeepLabCriterion(MaXDeepLabCriterion):
  """Computes the losses of CMT-DeepLab from its outputs and targets."""

  def __init__(self, *, mask_approximation_term: LossTerm = _DEFAULT_TERM, **terms: Any):
    """Initializes the criterion.

    Args:
      mask_approximation_term: Options of the mask approximation loss; top_k_percent is not used.
      **terms: See MaXDeepLabCriterion.
    """
    super().__init__(**terms)
    self._approximation_weight = mask_approximation_term.weight

  def outputs_used(self, outputs: dict[str, tf.Tensor]) -> list[str]:
    """Returns the names of the outputs that the losses read."""
    names = super().outputs_used(outputs)
    if self._approximation_weight and 'reference_points' in outputs:
      names.append('reference_points')
    names += [name for name in outputs if name.startswith('mask_logits_')]
    if any(name.startswith(FIRST_NETWORK) for name in outputs):
      names += [FIRST_NETWORK + name for name in self.outputs_used(_of_first(outputs))]
    return names

  def terms(self, outputs: dict[str, tf.Tensor], targets: MaskTargets,
            matched: MatchedTargets) -> tuple[dict, dict, dict]:
    """Returns the weighted terms, float32 [batch]; their weights; and statistics, float32 [].

    The terms of layer i are named like its outputs, e.g. `mask_id_cross_entropy_loss_0`, and those
    of the first of two networks, which has a matching of its own, begin with 'first_network/'.
    """
    losses, weights, statistics = super().terms(outputs, targets, matched)
    own = {name: value for name, value in outputs.items() if not name.startswith(FIRST_NETWORK)}
    size = outputs['mask_logits'].shape[1:3]
    for i, layer in enumerate(split_layers(own)[:-1]):
      # Reading: the resolution of the final masks, as in kMaX-DeepLab.
      for name, value in self.mask_terms(resize_bilinear(layer['mask_logits'], size),
                                         matched).items():
        losses[f'{name}_{i}'], weights[f'{name}_{i}'] = value, weights[name]
    if 'reference_points' in outputs:
      # Reading: each layer counts, like its assignment.
      scaled = matched.scaled
      extents = mask_approximation.extents(scaled.mask_ids, scaled.mask_classes.shape[1])
      losses['mask_approximation_loss'] = self._approximation_weight * tf.add_n([
          mask_approximation.loss(points, matched.matching, extents)
          for points in tf.unstack(outputs['reference_points'], axis=1)])
      weights['mask_approximation_loss'] = self._approximation_weight
    first = _of_first(outputs)
    if first:
      found = self.terms(first, targets, self.match(first, targets))
      for name, value in found[0].items():
        losses[FIRST_NETWORK + name] = value
        weights[FIRST_NETWORK + name] = found[1][name]
    return losses, weights, statistics


def _of_first(outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Returns the outputs of the first of two networks by their names without its own; or none."""
  return {name[len(FIRST_NETWORK):]: value for name, value in outputs.items()
          if name.startswith(FIRST_NETWORK)}
