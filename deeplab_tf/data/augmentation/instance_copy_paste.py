"""Copy-paste of instances whose masks may overlap (Ghiasi et al., CVPR 2021, arXiv 2012.07177).

Instances of one image are pasted over another. Pixels under a pasted instance leave the masks of
the other image; masks that are covered completely have no pixels any more.
"""

import tensorflow as tf

from deeplab_tf.structures import InstanceLabel

_Sample = tuple[tf.Tensor, InstanceLabel]


def paste(onto: _Sample, other: _Sample, *, option: str, max_instances: int,
          seed: tf.Tensor) -> _Sample:
  """Pastes a random subset of the instances of another image.

  Crowds are not pasted, since they stand for instances without masks of their own.

  Args:
    onto: Image to paste onto, float32 [height, width, 3], and its label.
    other: Image of the same size that the instances come from, and its label.
    option: 'none', 'random' or 'all'. With 'random' the size of the subset is uniform from 0 to the
      number of instances.
    max_instances: Largest number of instances in the result; further ones are not pasted.
    seed: int [2].

  Returns:
    Image and label. Rows of the label are unused (class id -1) where nothing was pasted.
  """
  image, label = onto
  other_image, other_label = other
  rows = 8 * (-(-max_instances // 8))
  # Masks of the two labels are in different entries of the bits.
  first = 8 * tf.shape(label.mask_bits)[2]
  room = tf.maximum(rows - first, 0) // 8 * 8
  chosen = _chosen(other_label, option, seed)[:room]
  entries = (tf.size(chosen) + 7) // 8
  bits = other_label.mask_bits[..., :entries] & _packed(chosen, entries)
  is_pasted = tf.reduce_any(bits > 0, -1, keepdims=True)
  share = tf.cast(is_pasted, tf.float32)
  # This sum is exact since one of its terms is 0.
  image = image * (1.0 - share) + other_image * share
  kept = tf.where(is_pasted, tf.constant(0, tf.uint8), label.mask_bits)
  count = tf.size(chosen)
  unused = first - tf.size(label.class_ids)

  def joined(own, pasted, filling):
    own = tf.pad(own, [[0, unused]], constant_values=filling)
    return tf.concat([own, pasted[:count]], 0)

  return image, InstanceLabel(
      mask_bits=tf.concat([kept, bits], -1),
      class_ids=joined(label.class_ids, tf.where(chosen, other_label.class_ids[:count], -1), -1),
      is_crowd=joined(label.is_crowd, other_label.is_crowd, False),
      areas=joined(label.areas, other_label.areas, 0.0))


def _chosen(label, option, seed):
  """Returns bool [instances], which instances are pasted."""
  allowed = (label.class_ids >= 0) & ~label.is_crowd
  if option == 'none':
    return tf.zeros_like(allowed)
  if option == 'all':
    return allowed
  uniform = tf.random.stateless_uniform([tf.size(allowed) + 1], seed)
  total = tf.reduce_sum(tf.cast(allowed, tf.int32))
  count = tf.minimum(tf.cast(uniform[0] * tf.cast(total + 1, tf.float32), tf.int32), total)
  order = tf.argsort(tf.where(allowed, uniform[1:], 2.0))
  return allowed & (tf.argsort(order) < count)


def _packed(chosen, entries):
  """Returns uint8 [entries], with one bit per instance; see structures.InstanceLabel."""
  padded = tf.pad(tf.cast(chosen, tf.int32), [[0, 8 * entries - tf.size(chosen)]])
  return tf.cast(tf.reduce_sum(tf.reshape(padded, [entries, 8]) * 2**tf.range(8), -1), tf.uint8)
