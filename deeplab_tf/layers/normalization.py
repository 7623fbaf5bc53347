"""Normalization layers: batch norm (of one replica or all, or frozen), layer norm, group norm."""

import contextlib
import functools
import operator
import threading
from typing import Callable, Iterator, Optional, Sequence, Union

import numpy as np
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.user_errors import ConfigError

# Factory of norms, from the number of channels and, by keyword, `gamma_initializer`: a class of
# this module, or a functools.partial of one that sets momentum, epsilon and so on. Attention with
# batch norms also passes BatchNorm's `axes`, so there it makes a BatchNorm or a FrozenBatchNorm.
NormFactory = Callable[..., keras.layers.Layer]


class _State(threading.local):
  """State of each thread, since replicas are traced in threads of their own."""
  records: bool = True


_state = _State()


@contextlib.contextmanager
def recording(records: bool) -> Iterator[None]:
  """Sets whether batch norms record the statistics of training batches in this context."""
  previous, _state.records = _state.records, records
  try:
    yield
  finally:
    _state.records = previous


class BatchNorm(keras.layers.Layer):
  """Batch normalization of chosen axes, with Keras' numerics and less work.

  Differs from keras.layers.BatchNormalization in three ways: variables exist from the
  constructor on; normalization over the last axis uses the fused kernel whatever the rank;
  and one class serves both the plain and the synchronized form. As in Keras, the plain form
  keeps the unbiased variance as moving variance for rank 4, all others the biased one. It
  computes in float32 whatever the precision of its input, and returns the input's precision.

  Attributes:
    gamma, beta, moving_mean, moving_variance: float32 variables of the shape of the parameters.
  """
  _LEARNS = True

  def __init__(self,
               shape: Sequence[int],
               axes: Sequence[int] = (-1,),
               momentum: float = 0.99,
               epsilon: float = 1e-3,
               synchronized: bool = True,
               frozen: bool = False,
               gamma_initializer: Union[str, keras.initializers.Initializer] = 'ones',
               name: Optional[str] = None):
    """Initializes the layer.

    Args:
      shape: Sizes of the normalized axes, or one number of channels.
      axes: Axes of the input that have statistics of their own, ascending.
      momentum: Share of the old moving statistics that is kept at each step.
      epsilon: Number that is added to variances.
      synchronized: Whether statistics are taken over all replicas of the strategy.
      frozen: Whether training uses the moving statistics too, and does not update them; gamma and
        beta are trained. FrozenBatchNorm trains nothing.
      gamma_initializer: 'ones', 'zeros' or an initializer.
      name: Name of the layer.
    """
    # Without autocast, mixed precision does not cast inputs: float32 logits stay float32.
    super().__init__(name=name, autocast=False)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    self.axes = tuple(axes)
    self.momentum = momentum
    self.epsilon = epsilon
    self.synchronized = synchronized
    self.frozen = frozen
    self.gamma, self.beta = _affine_weights(self, shape, gamma_initializer, self._LEARNS)
    self.moving_mean = self._add_statistic('moving_mean', shape, 'zeros')
    self.moving_variance = self._add_statistic('moving_variance', shape, 'ones')

  def _add_statistic(self, name, shape, initializer):
    return self.add_weight(name, shape, tf.float32, initializer=initializer, trainable=False,
                           synchronization=tf.VariableSynchronization.ON_READ,
                           aggregation=tf.VariableAggregation.MEAN,
                           experimental_autocast=False)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Normalizes a tensor; in training by the batch's statistics, which are also recorded."""
    training = training and not self.frozen
    if self.axes == (-1,) and not (training and self._replicas() > 1):
      return self._call_fused(x, training)
    axes = [a % x.shape.rank for a in self.axes]
    reduced = [i for i in range(x.shape.rank) if i not in axes]
    if training:
      mean, variance = tf.nn.moments(tf.cast(x, tf.float32), reduced)
    else:
      mean, variance = None, None
    scale, offset = self.affine(mean, variance, training)
    broadcast = [n if i in axes else 1 for i, n in enumerate(x.shape.as_list())]
    y = tf.cast(x, tf.float32) * tf.reshape(scale, broadcast) + tf.reshape(offset, broadcast)
    return tf.cast(y, x.dtype)

  def affine(self, mean: Optional[tf.Tensor], variance: Optional[tf.Tensor],
             training: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the scale and the offset that normalize, and records the statistics.

    Args:
      mean: Batch mean over this replica, of the shape of the parameters; unused at inference.
      variance: Batch variance (biased) over this replica.
      training: Whether to use the batch's statistics rather than the moving ones.
    """
    if training and not self.frozen:
      if self._replicas() > 1:
        mean, variance = _across_replicas(mean, variance)
      self._record(mean, variance)
    else:
      mean, variance = self.moving_mean, self.moving_variance
    scale = self.gamma * tf.math.rsqrt(variance + self.epsilon)
    return scale, self.beta - mean * scale

  def inference_affine(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scale and the offset at inference, to be folded into another layer.

    Returns:
      float64 arrays of the shape of the parameters.
    """
    gamma, beta, mean, variance = (v.numpy().astype(np.float64) for v in (
        self.gamma, self.beta, self.moving_mean, self.moving_variance))
    scale = gamma / np.sqrt(variance + self.epsilon)
    return scale, beta - mean * scale

  def _call_fused(self, x: tf.Tensor, training: bool) -> tf.Tensor:
    rank = x.shape.rank
    flat = x if rank == 4 else tf.reshape(x, [1, -1, 1, x.shape[-1]])
    if not training:
      y, _, _ = tf.compat.v1.nn.fused_batch_norm(
          flat, self.gamma, self.beta, self.moving_mean, self.moving_variance,
          epsilon=self.epsilon, is_training=False)
    else:
      y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
          flat, self.gamma, self.beta, epsilon=self.epsilon, is_training=True)
      if self.synchronized or rank != 4:
        # The kernel returns the unbiased variance.
        count = x.shape.num_elements()
        count = tf.cast(tf.size(x), tf.float32) if count is None else float(count)
        count /= x.shape[-1]
        variance = variance * ((count - 1) / count)
      self._record(mean, variance)
    if rank != 4:
      y = tf.reshape(y, dimensions(x))
    return y

  def _replicas(self) -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync if self.synchronized else 1

  def _record(self, mean: tf.Tensor, variance: tf.Tensor) -> None:
    if not _state.records:
      return
    keep = self.momentum
    mean, variance = tf.stop_gradient(mean), tf.stop_gradient(variance)
    for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
      moving.assign(moving * keep + value * (1 - keep), read_value=False)


class FrozenBatchNorm(BatchNorm):
  """Batch normalization as a fixed affine map, like Detectron2's FrozenBatchNorm2d.

  y = x * s + (beta - moving_mean * s) with s = gamma / sqrt(moving_variance + epsilon). Unlike in
  a BatchNorm with frozen=True, gamma and beta are constants too: checkpoints hold all four
  variables, but none is trainable, and none counts as a parameter.

  Attributes:
    gamma, beta, moving_mean, moving_variance: float32 variables of the shape of the parameters.
  """
  _LEARNS = False

  def __init__(self,
               shape: Union[int, Sequence[int]],
               axes: Sequence[int] = (-1,),
               epsilon: float = 1e-5,
               gamma_initializer: Union[str, keras.initializers.Initializer] = 'ones',
               name: Optional[str] = None):
    """Initializes the layer; see BatchNorm for the arguments."""
    super().__init__(shape, axes, epsilon=epsilon, synchronized=False, frozen=True,
                     gamma_initializer=gamma_initializer, name=name)


class LayerNorm(keras.layers.Layer):
  """Layer normalization over the last axis (Ba et al., arXiv 1607.06450).

  Computes in float32 whatever the precision of its input, and returns the input's precision.

  Attributes:
    gamma, beta: float32 variables [channels].
  """

  def __init__(self,
               channels: int,
               epsilon: float = 1e-5,
               gamma_initializer: Union[str, keras.initializers.Initializer] = 'ones',
               name: Optional[str] = None):
    """Initializes the layer.

    Args:
      channels: Size of the last axis.
      epsilon: Number that is added to variances.
      gamma_initializer: 'ones', 'zeros' or an initializer.
      name: Name of the layer.
    """
    super().__init__(name=name, autocast=False)
    self.epsilon = epsilon
    self.gamma, self.beta = _affine_weights(self, (channels,), gamma_initializer)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Normalizes [..., channels]; the same in training and at inference."""
    del training
    y = tf.cast(x, tf.float32)
    mean, variance = tf.nn.moments(y, [-1], keepdims=True)
    y = (y - mean) * tf.math.rsqrt(variance + self.epsilon) * self.gamma + self.beta
    return tf.cast(y, x.dtype)


class GroupNorm(keras.layers.Layer):
  """Group normalization (Wu and He, ECCV 2018) with PyTorch's definition.

  A group is channels / groups neighboring channels; its mean and its biased variance are those of
  one image, over all positions. Computes in float32 whatever the precision of its input, and
  returns the input's precision.

  Attributes:
    gamma, beta: float32 variables [channels].
  """

  def __init__(self,
               channels: int,
               groups: int = 32,
               epsilon: float = 1e-5,
               gamma_initializer: Union[str, keras.initializers.Initializer] = 'ones',
               name: Optional[str] = None):
    """Initializes the layer.

    Args:
      channels: Size of the last axis.
      groups: Number of groups.
      epsilon: Number that is added to variances.
      gamma_initializer: 'ones', 'zeros' or an initializer.
      name: Name of the layer.

    Raises:
      ConfigError: The channels are not divisible by the number of groups.
    """
    super().__init__(name=name, autocast=False)
    if groups < 1 or channels % groups:
      raise ConfigError(f'group norm: {channels} channels do not divide into {groups} groups; '
                        'change one of them')
    self.groups = groups
    self.epsilon = epsilon
    self.gamma, self.beta = _affine_weights(self, (channels,), gamma_initializer)

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Normalizes [batch, ..., channels]; the same in training and at inference."""
    del training
    shape = dimensions(x)
    positions = functools.reduce(operator.mul, shape[1:-1], 1)
    grouped = [shape[0], positions, self.groups, shape[-1] // self.groups]
    y = tf.reshape(tf.cast(x, tf.float32), grouped)
    mean, variance = tf.nn.moments(y, [1, 3], keepdims=True)
    scale = tf.math.rsqrt(variance + self.epsilon) * tf.reshape(self.gamma, grouped[2:])
    y = (y - mean) * scale + tf.reshape(self.beta, grouped[2:])
    return tf.cast(tf.reshape(y, shape), x.dtype)


def _affine_weights(layer, shape, gamma_initializer, trainable=True):
  """Creates gamma and beta, float32 in every precision."""
  return [layer.add_weight(name, shape, tf.float32, initializer=initializer, trainable=trainable,
                           experimental_autocast=False)
          for name, initializer in (('gamma', gamma_initializer), ('beta', 'zeros'))]


def scaled(x: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
  """Returns x times a float32 scale, in the precision of x.

  The product is computed in float32, and so is the gradient of the scale, a sum over x that would
  lose digits or overflow in half precision.
  """
  return tf.cast(tf.cast(x, tf.float32) * scale, x.dtype)


def _across_replicas(mean: tf.Tensor, variance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns mean and variance over all replicas, each of which holds equally many values."""
  context = tf.distribute.get_replica_context()
  mean, squares = context.all_reduce(tf.distribute.ReduceOp.MEAN,
                                     [mean, variance + tf.square(mean)])
  return mean, squares - tf.square(mean)
