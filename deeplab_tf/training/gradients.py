"""Losses and gradients of one replica's share of a batch, at once or part by part.

Gradient accumulation cuts the share into parts that are in memory one after the other. All parts
divide their losses by the same normalizers, which are those of the whole batch, so the sums over
the parts are the whole batch's, unless batch norms see each part alone.
"""

from typing import Callable, NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.losses import Criterion
from deeplab_tf.training import optimizers
from deeplab_tf.user_errors import ConfigError


class Gradients(NamedTuple):
  """What comes out of the images of one replica.

  Attributes:
    gradients: Place among the trained variables -> float32 gradient times the loss scale, of
      the variables that have one.
    losses: Name -> float32 [], weighted loss terms and 'total', the share that these images have
      in the losses of the whole batch.
    unweighted: Name -> float32 [], the terms of the criterion without their weights.
    statistics: Name -> float32 [], means.
    broken: Name -> float32 [], 0 where that tensor is finite.
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
    """Initialises the function.

    Args:
      model: The network.
      criterion: The losses of the network's outputs.
      trained: The variables to differentiate by.
      global_batch: Images per step over all replicas.
      replicas: Number of replicas.
      parts: Parts that a replica's images are cut into.
      unrolled: Writes the parts out one after the other instead of a loop. Replicas that meet
        inside of the network (synchronised batch norms) cannot always do so inside of a loop.
      decayed: The variables that weight decay touches.
      weight_decay: Factor of the L2 penalty on them that is added to the loss; 0: none.
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
      targets: Of the same images.
      normalizers: Name -> float32 [], the criterion's, of the whole batch.
      seed: int64 [2], of the stochastic layers.
      replica: int32 [], the number of this replica.
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
    # Tells the shapes of the sums.
    shapes = tf.function(lambda i: part(i, function), autograph=False).get_concrete_function(
        tf.TensorSpec([], tf.int32)).structured_outputs
    zeros = tf.nest.map_structure(lambda x: tf.zeros(x.shape, x.dtype), shapes)

    def add(i, total):
      return i + 1, tf.nest.map_structure(tf.add, total, part(i, function))

    return tf.while_loop(lambda i, _: i < self._parts, add, (tf.constant(0), zeros),
                         parallel_iterations=1)[1]

  def _write_out(self, part: Callable) -> Gradients:
    """Sums over the parts, each waiting for the one before, so that memory is that of one."""
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
      raise ConfigError('no variable has a gradient: every loss term is switched off')
    broken = {name: 1.0 - tf.cast(flag, tf.float32) for name, flag in result.checks.items()}
    return Gradients(gradients, losses, unweighted, dict(result.statistics), broken)
