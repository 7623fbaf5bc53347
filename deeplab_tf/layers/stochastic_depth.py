"""Stochastic depth (drop path): residual branches that are left out at random in training."""

import math

import tensorflow as tf

from deeplab_tf.layers import randomness
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.user_errors import ConfigError


def keep_probability(keep_prob: float, schedule: str, stride: int, beyond_stride: int) -> float:
  """Returns the keep probability of a residual branch (DeepLab2's rule).

  Args:
    keep_prob: The probability at stride 32, or everywhere if constant; in (0, 1].
    schedule: 'constant', or 'linear' in the logarithm of the stride.
    stride: Stride of the block's input.
    beyond_stride: Stride below which blocks are always kept.

  Raises:
    ValueError: The schedule is unknown.
  """
  _check_schedule(schedule)
  if stride < beyond_stride:
    return 1.0
  if schedule == 'constant':
    return keep_prob
  return 1.0 - (1.0 - keep_prob) * (math.log2(stride) - 1.0) / 4.0


def keep_probabilities(keep_prob: float, schedule: str, num_blocks: int) -> list[float]:
  """Returns the keep probability of each block of a network, by its place (Swin's rule).

  Args:
    keep_prob: Probability of the last block, or of all if constant; in (0, 1].
    schedule: 'constant', or 'linear' from 1 at the first block.
    num_blocks: Number of blocks.

  Raises:
    ConfigError: The schedule is unknown.
  """
  _check_schedule(schedule)
  if schedule == 'constant':
    return [keep_prob] * num_blocks
  return [1.0 - (1.0 - keep_prob) * index / max(1, num_blocks - 1) for index in range(num_blocks)]


def drop_path(branch: tf.Tensor, keep_prob: float, training: bool) -> tf.Tensor:
  """Drops a branch per sample with probability 1 - keep_prob and rescales it otherwise."""
  if not training or keep_prob >= 1.0:
    return branch
  shape = [dimensions(branch)[0]] + [1] * (branch.shape.rank - 1)
  mask = tf.floor(keep_prob + randomness.uniform(shape)) / keep_prob
  return branch * tf.cast(mask, branch.dtype)


def _check_schedule(schedule):
  if schedule not in ('constant', 'linear'):
    raise ConfigError(f'unknown drop path schedule "{schedule}": allowed are constant, linear')
