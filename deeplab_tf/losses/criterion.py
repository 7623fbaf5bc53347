"""What a criterion is told of its terms, what it returns, and the finite-flags in that."""

from typing import NamedTuple

import tensorflow as tf


class LossTerm(NamedTuple):
  """One term of the total.

  Attributes:
    weight: Factor of the term, at least 0; 0 leaves the term out.
    top_k_percent: Share of the pixels of highest loss that count, in (0, 1].
  """
  weight: float = 1.0
  top_k_percent: float = 1.0


class CriterionResult(NamedTuple):
  """The losses of a batch.

  Attributes:
    losses: name -> float32 [batch], the weighted terms of each image.
    weights: name -> the weight in that term, above 0.
    total: float32 [batch], their sum.
    statistics: name -> float32 [], figures to watch, over the batch, without gradient.
    checks: name -> bool [], whether that tensor is finite. Compiled code cannot raise, so the
      host reads these.
  """
  losses: dict[str, tf.Tensor]
  weights: dict[str, float]
  total: tf.Tensor
  statistics: dict[str, tf.Tensor]
  checks: dict[str, tf.Tensor]


def are_finite(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Returns for each named tensor a bool [] that is True if all of it is finite."""
  return {name: tf.reduce_all(tf.math.is_finite(tensor)) for name, tensor in tensors.items()}
