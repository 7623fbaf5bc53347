"""Placement of a training crop: the image's new size, the window in it, and the flip.

All random geometry is drawn here before any pixel is processed, so that image and label need only
be resized where the crop will be.
"""

from typing import NamedTuple, Sequence

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import segments as segments_lib
from deeplab_tf.data.augmentation import options as options_lib
from deeplab_tf.data.augmentation import transforms

# Number of draws in the search for a crop in which no class covers too much.
_ATTEMPTS = 10


class Placement(NamedTuple):
  """A window of a resized image and its place in the crop; int32 [2] are (height, width).

  Attributes:
    source: int32 [2], size of the original image.
    resized: int32 [2], size after the first resizing.
    first_start: int32 [2], first row and column of what is resized a second time.
    first_kept: int32 [2], size of what is resized a second time; all of the image, unless it is
      cropped between the two.
    scaled: int32 [2], size after the second resizing; the window is cut out of this image.
    start: int32 [2], first row and column of the window.
    kept: int32 [2], size of the window.
    offset: int32 [2], first row and column of the (mirrored) window in the crop.
    flip: bool [], whether the window is mirrored.
  """
  source: tf.Tensor
  resized: tf.Tensor
  first_start: tf.Tensor
  first_kept: tf.Tensor
  scaled: tf.Tensor
  start: tf.Tensor
  kept: tf.Tensor
  offset: tf.Tensor
  flip: tf.Tensor


def draw(label: tf.Tensor, augmentation: options_lib.Augmentation, info: DatasetInfo,
         seeds: Sequence[tf.Tensor]) -> Placement:
  """Draws a placement.

  Args:
    label: int32 [height, width], panoptic map of the image, or uint8 [height, width, channels],
      bits of masks that may overlap, which have no class for every pixel.
    augmentation: Augmentation options.
    info: The data set.
    seeds: Seeds of the size, of the crop and of the flip, int [2] each.
  """
  source = tf.shape(label)[:2]
  flip = tf.constant(False)
  if augmentation.flip:
    flip = tf.random.stateless_uniform([], seeds[2]) < 0.5
  if augmentation.jitter:
    return _large_scale_jitter(source, augmentation, flip, seeds)
  placement = _shorter_side if augmentation.shorter_sides else _deeplab2
  return placement(source, augmentation, flip, seeds, _is_diverse(label, augmentation, info))


def _deeplab2(source, augmentation, flip, seeds, is_diverse):
  """Resizes to a range, then by a random scale; a smaller image lies anywhere in the crop."""
  resized = source
  if any(augmentation.min_size) or any(augmentation.max_size):
    resized = transforms.size_in_range(source, augmentation.min_size, augmentation.max_size,
                                       augmentation.resize_factor)
  scaled = resized
  if augmentation.scale[:2] != (1.0, 1.0):
    scaled = transforms.scaled_size(resized, transforms.draw_scale(*augmentation.scale, seeds[0]))
  made = _window(_whole(source, resized, scaled, flip), augmentation, seeds[1], is_diverse)
  offset = _random_below(tf.maximum(augmentation.crop_size - scaled, 1),
                         tf.random.experimental.stateless_fold_in(seeds[1], 1))
  # The whole crop is mirrored, including its padding.
  mirrored = tf.stack([offset[0], augmentation.crop_size[1] - offset[1] - made.kept[1]])
  return made._replace(offset=tf.where(flip, mirrored, offset))


def _shorter_side(source, augmentation, flip, seeds, is_diverse):
  sides = tf.constant(augmentation.shorter_sides)
  number = tf.random.stateless_uniform([], seeds[0], 0, tf.size(sides), tf.int32)
  resized, start, kept = source, tf.zeros([2], tf.int32), source
  if augmentation.crop_first:
    resized, start, kept = _crop_first(source, augmentation.crop_first, seeds[0])
  scaled = shorter_side_size(kept, sides[number], augmentation.max_longer_side)
  place = _whole(source, resized, scaled, flip)._replace(first_start=start, first_kept=kept)
  return _window(place, augmentation, seeds[1], is_diverse)


def _crop_first(source, crop, seed):
  """Returns the size after the first resizing, and start and size of the crop from it."""
  seeds = [tf.random.experimental.stateless_fold_in(seed, number) for number in range(1, 5)]
  is_cropped = tf.random.stateless_uniform([], seeds[0]) < crop.probability
  number = tf.random.stateless_uniform([], seeds[1], 0, len(crop.shorter_sides), tf.int32)
  resized = shorter_side_size(source, tf.constant(crop.shorter_sides)[number], 0)
  low, high = tf.minimum(resized, crop.min_side), tf.minimum(resized, crop.max_side)
  kept = low + _random_below(high - low + 1, seeds[2])
  start = _random_below(resized - kept + 1, seeds[3])
  return (tf.where(is_cropped, resized, source), tf.where(is_cropped, start, 0),
          tf.where(is_cropped, kept, source))


def _large_scale_jitter(source, augmentation, flip, seeds):
  scale = tf.random.stateless_uniform([], seeds[0], *augmentation.jitter, dtype=tf.float64)
  scaled = jittered_size(source, scale, augmentation.crop_size)
  start = jittered_start(scaled, augmentation.crop_size,
                         tf.random.stateless_uniform([], seeds[1], dtype=tf.float64))
  kept = tf.minimum(scaled, augmentation.crop_size)
  # Mask2Former flips first, so the window lies in the mirrored image.
  mirrored = tf.stack([start[0], scaled[1] - kept[1] - start[1]])
  return _whole(source, source, scaled, flip)._replace(
      start=tf.where(flip, mirrored, start), kept=kept)


def _whole(source, resized, scaled, flip):
  """Returns the placement of a whole image; its window is still to be set."""
  zero = tf.zeros([2], tf.int32)
  return Placement(source=source, resized=resized, first_start=zero, first_kept=resized,
                   scaled=scaled, start=zero, kept=zero, offset=zero, flip=flip)


# --- Sizes and windows ------------------------------------------------------------------------


def jittered_size(size: tf.Tensor, scale: tf.Tensor, crop_size: Sequence[int]) -> tf.Tensor:
  """Returns the size of an image fitted into a box of `scale` times the crop, aspect ratio kept.

  This is Mask2Former's large scale jittering; sizes are rounded half to even.

  Args:
    size: int32 [2].
    scale: float64 [].
    crop_size: Height and width.

  Returns:
    int32 [2], at least 1.
  """
  sides = tf.cast(size, tf.float64)
  factor = tf.reduce_min(tf.constant(crop_size, tf.float64) * scale / sides)
  return tf.maximum(tf.cast(tf.round(sides * factor), tf.int32), 1)


def jittered_start(size: tf.Tensor, crop_size: Sequence[int], uniform: tf.Tensor) -> tf.Tensor:
  """Returns int32 [2], the first row and column of a crop; one random number gives both.

  Args:
    size: int32 [2].
    crop_size: Height and width.
    uniform: float64 [] in [0, 1].
  """
  room = tf.maximum(size - crop_size, 0)
  return tf.cast(tf.round(tf.cast(room, tf.float64) * uniform), tf.int32)


def shorter_side_size(size: tf.Tensor, shorter: tf.Tensor, max_longer: int,
                      box: Sequence[int] = ()) -> tf.Tensor:
  """Returns the size of an image whose shorter side becomes `shorter`, aspect ratio kept.

  As in Mask2Former, it becomes smaller if the longer side would exceed its maximum, and sizes are
  rounded half up.

  Args:
    size: int32 [2].
    shorter: int32 [].
    max_longer: Maximum length of the longer side; 0 for no maximum.
    box: Height and width that the image is scaled down to fit into; empty for no box.

  Returns:
    int32 [2], at least 1.
  """
  sides, shorter = tf.cast(size, tf.float64), tf.cast(shorter, tf.float64)
  # The sides are computed separately, so that the shorter side is exact.
  new = tf.where(sides <= sides[::-1], shorter, shorter / tf.reduce_min(sides) * sides)
  if max_longer:
    new *= tf.minimum(max_longer / tf.reduce_max(new), 1.0)
  if box:
    new *= tf.minimum(tf.reduce_min(tf.constant(box, tf.float64) / new), 1.0)
  return tf.maximum(tf.cast(tf.floor(new + 0.5), tf.int32), 1)


def _window(placement, augmentation, seed, is_diverse):
  """Adds a random window, which is drawn again while one class covers too much of it."""
  scaled = placement.scaled
  kept = tf.minimum(scaled, augmentation.crop_size)
  limits = scaled - kept + 1
  placement = placement._replace(kept=kept)
  start = _random_below(limits, seed)
  if augmentation.max_category_share < 1:
    _, start = tf.while_loop(
        lambda attempt, start: (attempt < _ATTEMPTS) & ~is_diverse(placement._replace(start=start)),
        lambda attempt, start: (attempt + 1, _random_below(
            limits, tf.random.experimental.stateless_fold_in(seed, attempt + 1))),
        (1, start))
  return placement._replace(start=start)


def _random_below(limits, seed):
  """Returns int32 [2], each uniform in [0, limit)."""
  uniform = tf.random.stateless_uniform([2], seed, 0, 2**31 - 1, tf.int32)
  return uniform % limits


def _is_diverse(label, augmentation, info):
  """Returns whether a window has several classes and none covers too much of the labeled area."""

  def check(placement):
    window = take_label(label, placement, augmentation.is_mask2former)
    classes = tf.reshape(segments_lib.class_map(window, info), [-1])
    size = info.table_size
    counts = tf.math.bincount(classes, minlength=size, maxlength=size)
    counts *= tf.constant([int(i != info.ignore_label) for i in range(size)])
    most, all_of_it = tf.reduce_max(counts), tf.reduce_sum(counts)
    share = tf.cast(all_of_it, tf.float32) * augmentation.max_category_share
    return (most < all_of_it) & (tf.cast(most, tf.float32) < share)

  return check


# --- Pixels -----------------------------------------------------------------------------------


def take_label(label: tf.Tensor, placement: Placement, half_pixel: bool) -> tf.Tensor:
  """Returns the window of the resized label, without computing pixels outside of it.

  Args:
    label: int32 [height, width] or uint8 [height, width, channels].
    placement: Sizes and window.
    half_pixel: See `nearest`.

  Returns:
    [*kept, ...], mirrored if `placement.flip`.
  """
  rows, columns = (_source_indices(placement, axis, half_pixel) for axis in (0, 1))
  columns = tf.cond(placement.flip, lambda: columns[::-1], lambda: columns)
  # Whole rows are copied, then whole columns as rows of the transpose, instead of single pixels.
  # The axis with the smaller intermediate result comes first.
  axes = [1, 0, *range(2, label.shape.rank)]
  by_column = lambda x: tf.transpose(  # noqa: E731
      tf.gather(tf.transpose(x, axes), columns), axes)
  return tf.cond(tf.size(rows) < tf.shape(label)[0],
                 lambda: by_column(tf.gather(label, rows)),
                 lambda: tf.gather(by_column(label), rows))


def _source_indices(placement, axis, half_pixel):
  """Returns int32 [kept rows or columns], the source index of each row or column."""
  index = placement.start[axis] + tf.range(placement.kept[axis])
  index = nearest(index, placement.first_kept[axis], placement.scaled[axis], half_pixel)
  index += placement.first_start[axis]
  return nearest(index, placement.source[axis], placement.resized[axis], half_pixel)


def nearest(index: tf.Tensor, before: tf.Tensor, after: tf.Tensor, half_pixel: bool) -> tf.Tensor:
  """Returns the source positions of nearest-neighbor resizing along one axis.

  Args:
    index: int32 [n], positions after resizing.
    before: int32 [], length before resizing.
    after: int32 [], length after resizing.
    half_pixel: Whether pixel centers are at half-integers, as in Pillow; otherwise corners are
      aligned, as in DeepLab2, and positions are float32 and rounded half up, as in TensorFlow.

  Returns:
    int32 [n].
  """
  if half_pixel:
    index, before, after = (tf.cast(x, tf.int64) for x in (index, before, after))
    return tf.cast((2 * index + 1) * before // (2 * after), tf.int32)
  scale = tf.where(after > 1, (before - 1) / tf.maximum(after - 1, 1), before / after)
  place = tf.cast(index, tf.float32) * tf.cast(scale, tf.float32)
  below = tf.floor(place)
  rounded = tf.cast(below, tf.int32) + tf.cast(place - below >= 0.5, tf.int32)
  return tf.minimum(rounded, before - 1)
