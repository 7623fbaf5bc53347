"""Work on matched pairs of a query and a mask, a few at a time.

What a pair needs is large: many random points, or the mask at the size of the ground truth.
Therefore images are processed one at a time, and only pairs that exist, a few of them at once.
"""

from typing import Callable, Optional, Sequence

import tensorflow as tf

from deeplab_tf import mask_values
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import dimensions
from deeplab_tf.losses.mask_comparison import Focal, pair_losses
from deeplab_tf.mask_values import AnyMaskTargets

# Number of pairs whose masks are at the size of the ground truth at once.
_AT_FULL_SIZE = 4


def in_parts(function: Callable, is_pair: tf.Tensor, some: int,
             shape: Sequence[int]) -> tf.Tensor:
  """Calls a function for all pairs that exist, a few of one image at a time.

  All shapes are static if that of `is_pair` is. There is no gradient through this loop.

  Args:
    function: Called with the number of an image and of a step, int32 [], and with the rows of the
      pairs, int32 [some], the last of which may be repeated; returns float32 [some, *shape].
    is_pair: bool [batch, pairs], whether the pair exists; those of an image come first.
    some: Number of pairs at a time.
    shape: Shape of the result of one pair.

  Returns:
    float32 [batch, pairs, *shape]; of no meaning where no pair exists.
  """
  images, pairs = dimensions(is_pair)

  def one_image(arguments):
    image, own_is_pair = arguments
    count = tf.math.count_nonzero(own_is_pair, dtype=tf.int32)

    def step(i, found):
      rows = tf.minimum(i * some + tf.range(some), pairs - 1)
      new = function(image, i, rows)
      return i + 1, tf.tensor_scatter_nd_update(found, [[i]], new[tf.newaxis])

    start = (tf.constant(0), tf.zeros([-(-pairs // some), some, *shape]))
    found = tf.while_loop(lambda i, _: i * some < count, step, start, parallel_iterations=1)[1]
    return tf.reshape(found, [-1, *shape])[:pairs]

  return tf.map_fn(one_image, (tf.range(images), is_pair), parallel_iterations=1,
                   fn_output_signature=tf.TensorSpec([is_pair.shape[1], *shape]))


def pick(values: tf.Tensor, image: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
  """Returns some rows [rows, ...] of one image of [batch, rows, ...]."""
  return tf.gather_nd(values, tf.stack([tf.fill(tf.shape(rows), image), rows], axis=1))


def full_size_losses(maps: tf.Tensor, targets: AnyMaskTargets, pair_mask: tf.Tensor,
                     is_pair: tf.Tensor,
                     focal: Optional[Focal] = None) -> tuple[tf.Tensor, tf.Tensor]:
  """Compares the masks of pairs at all pixels of the ground truth, with resized logits.

  Masks of that size exist a few at a time alone, in the backward pass, too, which resizes them
  again.

  Args:
    maps: float32 [batch, pairs, h, w], mask logits of the pairs, of static size.
    targets: Targets with a static size.
    pair_mask: int32 [batch, pairs], the ground-truth mask of each pair.
    is_pair: bool [batch, pairs], whether the pair exists; those of an image come first.
    focal: Options of the focal loss; None for the binary cross-entropy.

  Returns:
    Both float32 [batch, pairs], of no meaning where no pair exists: the pixel loss, averaged over
    the pixels, and the dice loss.
  """

  def losses_of(own_maps, image, rows):
    labels = mask_values.whole(targets, image, pick(pair_mask, image, rows))
    logits = resize_bilinear(own_maps[..., tf.newaxis], labels.shape[1:], 'half_pixel')
    flat = (tf.reshape(x, [_AT_FULL_SIZE, -1]) for x in (logits, tf.cast(labels, tf.float32)))
    return tf.stack(pair_losses(*flat, focal), axis=1)

  # A gradient through the loop would keep the masks of all pairs.
  @tf.custom_gradient
  def losses(all_maps):

    def backward(upstream):

      def gradient(image, _, rows):
        own_maps = pick(all_maps, image, rows)
        with tf.GradientTape() as tape:
          tape.watch(own_maps)
          found = losses_of(own_maps, image, rows)
        return tape.gradient(found, own_maps, pick(upstream, image, rows))

      return in_parts(gradient, is_pair, _AT_FULL_SIZE, all_maps.shape[2:])

    found = in_parts(lambda image, _, rows: losses_of(pick(all_maps, image, rows), image, rows),
                     is_pair, _AT_FULL_SIZE, [2])
    return found, backward

  pixel_loss, dice = tf.unstack(losses(maps), axis=2)
  return pixel_loss, dice
