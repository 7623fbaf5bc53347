"""Panoptic copy-paste: segments of one image are pasted over another, as in DeepLab2."""

from typing import NamedTuple

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import segments as segments_lib
from deeplab_tf.data.augmentation import transforms

# Which segments of a kind are pasted: none, a random subset, or all.
OPTIONS = ('none', 'random', 'all')


class Choice(NamedTuple):
  """Which segments are pasted.

  Attributes:
    scale: Factor on the random scales of the pasted image.
    thing, stuff, void: One of OPTIONS for each kind of segment; crowds count as things.
  """
  scale: float
  thing: str = 'random'
  stuff: str = 'random'
  void: str = 'none'


def padding_label(info: DatasetInfo) -> int:
  """Returns the label of the padding of the pasted image, which differs from void."""
  return info.void_label + 1


def paste(onto: transforms.Pair, other: transforms.Pair, *, choice: Choice,
          info: DatasetInfo, max_things: int, seed: tf.Tensor) -> transforms.Pair:
  """Pastes random segments; instance i of a class becomes instance label_divisor - 1 - i.

  Stuff, crowds (instance 0) and void keep their labels. An image should have fewer than
  label_divisor / 2 instances of a class, so that no two instances get the same label.

  Args:
    onto: Image to paste onto, float32 [height, width, 3], and its label, int32 [height, width].
    other: Image that the segments come from, and its label, in which padding is `padding_label`.
    choice: Which segments are pasted.
    info: The data set.
    max_things: Largest number of instances in the result; further instances are not pasted.
    seed: int [2].

  Returns:
    Image and label.
  """
  image, label = onto
  other_image, other_label = other
  found = segments_lib.find(other_label, info)
  is_chosen = _chosen(found, choice, info, seed)
  present = segments_lib.find(label, info).is_instance
  room = max_things - tf.reduce_sum(tf.cast(present, tf.int32))
  pasted_things = tf.cumsum(tf.cast(is_chosen & found.is_instance, tf.int32))
  is_chosen &= ~found.is_instance | (pasted_things <= room)
  divisor = info.label_divisor
  # The highest number would become 0, which means crowd; it becomes 1, like the one below it.
  renamed = found.class_id * divisor + tf.maximum(divisor - 1 - found.label % divisor, 1)
  values = tf.where(found.is_instance, renamed, found.label)
  pasted = segments_lib.spread(tf.where(is_chosen, values, -1), found)
  is_pasted = pasted >= 0
  share = tf.cast(is_pasted, tf.float32)[..., None]
  # This sum is exact since one of its terms is 0, and it is far faster than tf.where.
  return (image * (1.0 - share) + other_image * share, tf.where(is_pasted, pasted, label))


def _chosen(found, choice, info, seed):
  """Returns bool [values], which segments are pasted."""
  is_padding = tf.equal(found.label, padding_label(info))
  uniform = tf.random.stateless_uniform([tf.size(found.label) + 1], seed)
  real = tf.reduce_sum(tf.cast(~is_padding, tf.int32))
  # DeepLab2's description does not say how the number of segments is distributed; here it is
  # uniform from 0 to all of them.
  count = tf.minimum(tf.cast(uniform[0] * tf.cast(real + 1, tf.float32), tf.int32), real)
  order = tf.argsort(tf.where(is_padding, 2.0, uniform[1:]))
  is_random = tf.argsort(order) < count
  rules = {'none': tf.zeros_like(is_random), 'random': is_random, 'all': tf.ones_like(is_random)}
  is_thing = tf.gather(segments_lib.class_table(info, info.thing_class_ids), found.class_id)
  is_stuff = tf.gather(segments_lib.class_table(info, info.stuff_class_ids), found.class_id)
  chosen = tf.where(is_thing, rules[choice.thing],
                    tf.where(is_stuff, rules[choice.stuff], rules[choice.void]))
  return chosen & ~is_padding
