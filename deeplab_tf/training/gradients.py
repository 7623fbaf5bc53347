"""Losses and gradients of one replica's share of a batch, with gradient accumulation.

Gradient accumulation splits the share into parts that are processed one after another. All parts
divide their losses by the normalizers of the whole batch, so the sums over the parts are those of
the whole batch, except that batch norms see each part alone.
"""

from typing import Callable, NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.losses import Criterion
from deeplab_tf.training import optimizers
from deeplab_tf.user_errors import ConfigError


class Gradients(NamedTuple):
  """Gradients, losses and checks of the images of one replica.

  Attributes:
    gradients: Index of a trained variable (as a string) -> float32, gradient times the loss scale;
      variables without a gradient are left out.
    losses: Name -> float32 [], weighted loss terms and 'total': the share of these images in the
      losses of the whole batch.
    unweighted: Name -> float32 [], the terms of the criterion without their weights.
    statistics: Name -> float32 [], means over the parts.
    broken: Name -> float32 [], 0 if the tensor is finite; otherwise the number of parts in which it
      is not.
  """
  gradients: dict
  losses: dict
  unweighted: dict
  statistics: dict
  broken: dict


class GradientFunction:
  """Computes Gradients; see `__call__`."""

  def __init__(self, model: keras.Model, criterion: Criterion, trained: Sequence[tf.Variable],
               *, global_batch: int, replicas: int = 1, parts: int = 1, unrolled: bool = False,
               decayed: Sequence[tf.Variable] = (), weight_decay: float = 0.0):
    """Initializes the function.

    Args:
      model: The network.
      criterion: Criterion that computes the losses of the network's outputs.
      trained: Variables to compute gradients for.
      global_batch: Images per step over all replicas.
      replicas: Number of replicas.
      parts: Number of parts that a replica's images are split into.
      unrolled: Whether the graph has a copy of the network for each part instead of a loop, inside
        of which replicas cannot always communicate (synchronized batch norms).
      decayed: Variables to which weight decay applies.
      weight_decay: Factor of the L2 penalty on these that is added to the loss; 0 for none.
    """
    self._model = model
    self._criterion = criterion
    self._trained = list(trained)
    self._global_batch = global_batch
    self._replicas = replicas
    self._parts = parts
    self._unrolled = unrolled
    self._decayed = list(decayed)
    self._weight_decay = weight_decay

  def __call__(self, images: tf.Tensor, targets: NamedTuple, normalizers: dict[str, tf.Tensor],
               seed: tf.Tensor, replica: tf.Tensor, scale: tf.Tensor) -> Gradients:
    """Runs the network forward and backward.

    Args:
      images: float32 [images, height, width, 3] of this replica; their number is static.
      targets: Targets of these images.
      normalizers: Name -> float32 [], normalizers of the criterion for the whole batch.
      seed: int64 [2], seed of the stochastic layers.
      replica: int32 [], number of this replica.
      scale: float32 [], the loss scale.

    Raises:
      ValueError: No variable has a gradient.
    """
    size = images.shape[0] // self._parts
    first = replica * (size * self._parts)
    if self._parts == 1:
      return self._part(images, targets, normalizers, seed, first, scale)

    def cut(x, i):
      return tf.ensure_shape(tf.slice(x, [i * size] + [0] * (x.shape.rank - 1),
                                      [size, *x.shape[1:]]), [size, *x.shape[1:]])

    def part(i, function):
      own_images, own_targets = tf.nest.map_structure(lambda x: cut(x, i), (images, targets))
      return function(own_images, own_targets, normalizers, seed, first + i * size, scale)

    total = self._write_out(part) if self._unrolled else self._loop(part)
    mean = {name: value / self._parts for name, value in total.statistics.items()}
    return total._replace(statistics=mean)

  def _loop(self, part: Callable) -> Gradients:
    """Sums over the parts in a loop, which is traced once."""
    function = tf.function(self._part, autograph=False)
    # Traced for the shapes of the sums.
    shapes = tf.function(lambda i: part(i, function), autograph=False).get_concrete_function(
        tf.TensorSpec([], tf.int32)).structured_outputs
    zeros = tf.nest.map_structure(lambda x: tf.zeros(x.shape, x.dtype), shapes)

    def add(i, total):
      return i + 1, tf.nest.map_structure(tf.add, total, part(i, function))

    return tf.while_loop(lambda i, _: i < self._parts, add, (tf.constant(0), zeros),
                         parallel_iterations=1)[1]

  def _write_out(self, part: Callable) -> Gradients:
    """Sums over unrolled parts; each waits for the one before, so memory is that of one part."""
    total = part(0, self._part)
    for i in range(1, self._parts):
      with tf.control_dependencies(tf.nest.flatten(total)):
        i = tf.constant(i)
      total = tf.nest.map_structure(tf.add, total, part(i, self._part))
    return total

  def _part(self, images, targets, normalizers, seed, first, scale) -> Gradients:
    stream = randomness.seeded(seed, self._global_batch, first)
    with tf.GradientTape() as tape, stream:
      result = self._criterion(self._model(images, training=True), targets, normalizers)
      losses, total = dict(result.losses), result.total
      unweighted = {name: value / result.weights[name] for name, value in losses.items()}
      if self._weight_decay:
        penalty = optimizers.l2_penalty(self._decayed, self._weight_decay)
        losses['weight_decay'] = penalty / (self._replicas * self._parts)
        total += losses['weight_decay']
      scaled = total * scale
    losses['total'] = total
    found = tape.gradient(scaled, self._trained)
    gradients = {str(i): tf.convert_to_tensor(x) for i, x in enumerate(found) if x is not None}
    if not gradients:
      raise ConfigError('no variable has a gradient: every loss term has weight 0')
    broken = {name: 1.0 - tf.cast(flag, tf.float32) for name, flag in result.checks.items()}
    return Gradients(gradients, losses, unweighted, dict(result.statistics), broken)
