"""Base classes of criteria, which compute the losses of a network from outputs and targets.

A training step may process its batch in parts: each replica has its share of the images, and
gradient accumulation splits that share further. The losses and gradients of the parts are added
up. Therefore what a loss is divided by must be known for the whole batch before the first part is
processed, for example the number of images, the number of ground truth masks or a sum of class
weights. A criterion returns these normalizers as sums that depend on the targets alone. The step
adds them up over the replicas once and passes the totals to the criterion with every part.
"""

import abc
from typing import Callable, NamedTuple, Optional, Sequence

import tensorflow as tf


class LossTerm(NamedTuple):
  """Options of one term of the total loss.

  Attributes:
    weight: Factor of the term, at least 0; 0 leaves the term out.
    top_k_percent: Share of the pixels of highest loss that count, in (0, 1].
  """
  weight: float = 1.0
  top_k_percent: float = 1.0


class CriterionResult(NamedTuple):
  """The losses of some images.

  Attributes:
    losses: Name -> float32 [], the weighted terms, divided by their normalizers. Their sums over
      the parts of a batch are the losses of the batch.
    weights: Name -> weight of that term, above 0.
    total: float32 [], the sum of the terms.
    statistics: Name -> float32 [], metrics to monitor: means over the images, without gradient.
    checks: Name -> bool [], whether the tensor is finite. Compiled code cannot raise an error, so
      the host reads these.
  """
  losses: dict[str, tf.Tensor]
  weights: dict[str, float]
  total: tf.Tensor
  statistics: dict[str, tf.Tensor]
  checks: dict[str, tf.Tensor]


class Criterion(abc.ABC):
  """Base class of criteria; subclasses implement `normalizers` and `call`."""

  @abc.abstractmethod
  def normalizers(self, targets: NamedTuple) -> dict[str, tf.Tensor]:
    """Returns what these images contribute to the normalizers of the batch.

    The values of two sets of images must add up to the value of their union. A lower bound, such
    as Mask2Former's of one mask, therefore belongs in `call`, where the total is known. Reference
    implementations may instead divide by the mean over their processes and average the gradients
    over the processes, which is equivalent.

    Args:
      targets: A container of `deeplab_tf.structures`.

    Returns:
      Name -> float32 [].
    """

  @abc.abstractmethod
  def call(self, outputs: dict[str, tf.Tensor], targets: NamedTuple,
           normalizers: dict[str, tf.Tensor]) -> CriterionResult:
    """Returns the share of some images in the losses of their batch.

    Args:
      outputs: Name -> raw output of the network, [images, ...].
      targets: A container of `deeplab_tf.structures`, [images, ...].
      normalizers: Name -> float32 [], sums over all images of the batch.
    """

  def __call__(self, outputs: dict[str, tf.Tensor], targets: NamedTuple,
               normalizers: Optional[dict[str, tf.Tensor]] = None) -> CriterionResult:
    """Returns the losses as `call` does.

    Args:
      outputs: Name -> raw output of the network, [images, ...].
      targets: A container of `deeplab_tf.structures`, [images, ...].
      normalizers: Name -> float32 [], sums over all images of the batch; None if these images are
        the whole batch.
    """
    return self.call(outputs, targets,
                     self.normalizers(targets) if normalizers is None else normalizers)


class PerImageCriterion(Criterion):
  """Base class of criteria that average over the images; subclasses implement `image_losses`."""

  @abc.abstractmethod
  def image_losses(self, outputs: dict[str, tf.Tensor], targets: NamedTuple) -> CriterionResult:
    """Returns the losses of each image: `losses` and `total` are float32 [images].

    Args:
      outputs: Name -> raw output of the network, [images, ...].
      targets: A container of `deeplab_tf.structures`, [images, ...].
    """

  def normalizers(self, targets: NamedTuple) -> dict[str, tf.Tensor]:
    """Returns the number of images, as 'images'."""
    images = tf.shape(tf.nest.flatten(targets)[0])[0]
    return {'images': tf.cast(images, tf.float32)}

  def call(self, outputs: dict[str, tf.Tensor], targets: NamedTuple,
           normalizers: dict[str, tf.Tensor]) -> CriterionResult:
    """Returns the sums over these images, divided by the number of images of the batch."""
    result = self.image_losses(outputs, targets)
    images = normalizers['images']
    losses = {name: tf.reduce_sum(loss) / images for name, loss in result.losses.items()}
    return result._replace(losses=losses, total=tf.reduce_sum(result.total) / images)


def losses_of_layers(
    layer_losses: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
    layers: Sequence[dict[str, tf.Tensor]],
    weights: dict[str, float]) -> tuple[dict[str, tf.Tensor], dict[str, float]]:
  """Computes the same loss terms for each decoder layer (deep supervision).

  Terms are named like outputs: `mask_loss_0` is the term `mask_loss` of the first layer, and the
  term of the last layer has no number. The loss over all layers is the sum of all returned terms.

  Args:
    layer_losses: Function of the outputs of one layer that returns name -> float32, its weighted
      terms.
    layers: Outputs of each layer, from first to last; see `structures.split_layers`.
    weights: Name -> weight of that term, above 0, the same for all layers.

  Returns:
    (losses, weights): name -> float32, the terms, those of the last layer first; name -> weight of
    that term.
  """
  losses, all_weights = {}, {}
  suffixes = ['', *(f'_{i}' for i in range(len(layers) - 1))]
  for suffix, outputs in zip(suffixes, [layers[-1], *layers[:-1]]):
    for name, loss in layer_losses(outputs).items():
      losses[name + suffix] = loss
      all_weights[name + suffix] = weights[name]
  return losses, all_weights


def are_finite(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Returns name -> bool [], whether all values of the tensor are finite."""
  return {name: tf.reduce_all(tf.math.is_finite(tensor)) for name, tensor in tensors.items()}
