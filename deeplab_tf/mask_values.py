"""Values of ground-truth masks at points and on grids.

The targets of mask models have two forms. MaskTargets is the compact one, a partition of the image
with one mask per pixel. OverlappingMaskTargets has one bit per pixel and mask. Losses and matching
costs that read masks through these functions work with both forms, and with target maps of any
size in relation to the outputs of the network.
"""

from typing import Optional, Union

import numpy as np
import tensorflow as tf

from deeplab_tf.structures import MaskTargets, OverlappingMaskTargets

AnyMaskTargets = Union[MaskTargets, OverlappingMaskTargets]


def pack(masks: tf.Tensor) -> tf.Tensor:
  """Packs masks into OverlappingMaskTargets.mask_bits.

  The result equals `np.packbits(masks, axis=-1, bitorder='little')`.

  Args:
    masks: bool [..., masks], of static rank and static number of masks.

  Returns:
    uint8 [..., ceil(masks / 8)].
  """
  masks = tf.convert_to_tensor(masks)
  count = masks.shape[-1]
  channels = -(-count // 8)
  unused = [[0, 0]] * (masks.shape.rank - 1) + [[0, 8 * channels - count]]
  bits = tf.pad(tf.cast(masks, tf.int32), unused)
  bits = tf.reshape(bits, tf.concat([tf.shape(masks)[:-1], [channels, 8]], 0))
  packed = tf.cast(tf.reduce_sum(bits * 2**np.arange(8, dtype=np.int32), -1), tf.uint8)
  return tf.ensure_shape(packed, [*masks.shape[:-1], channels])


def unpack(bits: tf.Tensor, masks: int) -> tf.Tensor:
  """Undoes `pack`.

  Args:
    bits: uint8 [..., ceil(masks / 8)], of static rank.
    masks: Number of masks.

  Returns:
    bool [..., masks].
  """
  # Kernels for shifts of int32 exist on all devices.
  shifted = tf.bitwise.right_shift(tf.cast(bits, tf.int32)[..., tf.newaxis],
                                   tf.range(8, dtype=tf.int32))
  flat = tf.reshape(shifted, tf.concat([tf.shape(bits)[:-1], [8 * bits.shape[-1]]], 0))
  flat = tf.ensure_shape(flat, [*bits.shape[:-1], 8 * bits.shape[-1]])
  return tf.equal(tf.bitwise.bitwise_and(flat, 1), 1)[..., :masks]


def are_masks(targets: AnyMaskTargets, keep_empty: bool = False) -> tf.Tensor:
  """Returns which rows of `mask_classes` are masks: those with a class and at least one pixel.

  Args:
    targets: Targets with a static size.
    keep_empty: Whether rows with a class but without pixels are masks too, for targets that were
      made with DatasetOptions.keep_empty_masks.

  Returns:
    bool [batch, masks].
  """
  if keep_empty:
    return targets.mask_classes >= 0
  masks = targets.mask_classes.shape[1]
  if isinstance(targets, MaskTargets):
    ids = targets.mask_ids
    # All images at once; the rows of an image follow those of the previous image.
    first = masks * tf.range(tf.shape(ids)[0])[:, tf.newaxis, tf.newaxis]
    rows = tf.where(ids >= 0, ids + first, -1)  # Negative numbers of segments are left out.
    areas = tf.math.unsorted_segment_sum(
        tf.ones_like(rows), rows, masks * tf.shape(ids)[0])
    has_pixels = tf.reshape(areas, [-1, masks]) > 0
  else:
    # Bit by bit, since all bits at once are eight times as large.
    bits = [tf.bitwise.bitwise_and(targets.mask_bits, tf.constant(1 << i, tf.uint8))
            for i in range(8)]
    used = tf.stack([tf.reduce_any(tf.not_equal(bit, 0), [1, 2]) for bit in bits], -1)
    has_pixels = tf.reshape(used, [-1, 8 * used.shape[1]])[:, :masks]
  return has_pixels & (targets.mask_classes >= 0)


def at_points(targets: AnyMaskTargets, points: tf.Tensor,
              rows: Optional[tf.Tensor] = None) -> tf.Tensor:
  """Samples masks at points, bilinearly.

  This equals PyTorch's `grid_sample(align_corners=False)`, the point sampling of Mask2Former: pixel
  centers are half a pixel away from the border of the map, and masks are 0 outside of it, so a mask
  that reaches the border has values below 1 there.

  Args:
    targets: Targets with a static size.
    points: float32 [batch, points, 2], the same points for all masks, or [batch, masks, points, 2]:
      (x, y), from (0, 0) at the upper left corner to (1, 1) at the lower right one. They receive no
      gradient.
    rows: int32 [batch, n], the masks to sample, one for each row of `points` [batch, n, points, 2];
      None: all masks.

  Returns:
    float32 [batch, masks, points] in [0, 1], or [batch, n, points] with `rows`.
  """
  if rows is None:
    rows = tf.range(targets.mask_classes.shape[1])
  height, width = _size(targets)
  position = tf.stop_gradient(points) * tf.constant([width, height], tf.float32) - 0.5
  before = tf.floor(position)
  share = position - before
  column, row = tf.unstack(tf.cast(before, tf.int32), axis=-1)
  share_x, share_y = tf.unstack(share, axis=-1)
  values = 0.0
  for y, weight_y in ((row, 1 - share_y), (row + 1, share_y)):
    for x, weight_x in ((column, 1 - share_x), (column + 1, share_x)):
      is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
      weight = tf.where(is_inside, weight_x * weight_y, 0.0)
      pixel = (tf.clip_by_value(y, 0, height - 1) * width + tf.clip_by_value(x, 0, width - 1))
      if points.shape.rank == 3:
        weight = weight[:, tf.newaxis]
      values += weight * tf.cast(_covers(targets, pixel, rows), tf.float32)
  return values


def on_grid(targets: AnyMaskTargets, height: int, width: int) -> tf.Tensor:
  """Resizes masks to a grid, bilinearly, without antialiasing.

  This equals PyTorch's `interpolate(align_corners=False)`: pixels have half-pixel centers, and
  border pixels are repeated outside. On a grid that is not finer than the masks, the values are
  those of `at_points` at ((j + 0.5) / width, (i + 0.5) / height).

  Args:
    targets: Targets with a static size.
    height: Rows of the grid.
    width: Columns of the grid.

  Returns:
    float32 [batch, height, width, masks] in [0, 1].
  """
  own_height, own_width = _size(targets)
  values = 0.0
  for rows, weights_y in _neighbors(own_height, height):
    for columns, weights_x in _neighbors(own_width, width):
      weights = (weights_y[:, np.newaxis] * weights_x)[..., np.newaxis]
      if not weights.any():
        continue
      values += weights * tf.cast(_crossings(targets, rows, columns), tf.float32)
  return values


def nearest_on_grid(targets: AnyMaskTargets, height: int, width: int) -> tf.Tensor:
  """Resizes masks to a grid by nearest values.

  This equals PyTorch's `interpolate(mode='nearest')`: row i of the grid is row
  floor(i * rows of the masks / height), and columns likewise.

  Args:
    targets: Targets with a static size.
    height: Rows of the grid.
    width: Columns of the grid.

  Returns:
    bool [batch, height, width, masks].
  """
  rows, columns = (np.arange(target) * source // target
                   for source, target in zip(_size(targets), (height, width)))
  return _crossings(targets, rows, columns)


def whole(targets: AnyMaskTargets, image: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
  """Returns some masks of one image at all of its pixels.

  Args:
    targets: Targets with a static size.
    image: int32 [], the image.
    rows: int32 [n], the masks.

  Returns:
    bool [n, height, width].
  """
  if isinstance(targets, MaskTargets):
    return tf.equal(tf.gather(targets.mask_ids, image), rows[:, tf.newaxis, tf.newaxis])
  own = tf.gather(tf.gather(targets.mask_bits, image), rows // 8, axis=2)
  bit = tf.bitwise.left_shift(1, rows % 8)
  return tf.transpose(tf.bitwise.bitwise_and(tf.cast(own, tf.int32), bit) > 0, [2, 0, 1])


def _size(targets: AnyMaskTargets) -> tuple[int, int]:
  maps = targets.mask_ids if isinstance(targets, MaskTargets) else targets.mask_bits
  return tuple(maps.shape[1:3])


def _covers(targets: AnyMaskTargets, pixels: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
  """Returns which masks cover the given pixels.

  Args:
    targets: Targets with a static size.
    pixels: int32 [batch, points] or [batch, n, points], row x width + column.
    rows: int32 [masks], all masks, or [batch, n], the masks of `pixels` [batch, n, points].

  Returns:
    bool [batch, n, points].
  """
  masks, is_shared = targets.mask_classes.shape[1], pixels.shape.rank == 2
  height, width = _size(targets)
  mask = rows[..., tf.newaxis]
  if isinstance(targets, MaskTargets):
    ids = tf.gather(tf.reshape(targets.mask_ids, [-1, height * width]), pixels, batch_dims=1)
    return tf.equal(ids[:, tf.newaxis] if is_shared else ids, mask)
  channels = targets.mask_bits.shape[3]
  if is_shared:
    bits = tf.reshape(targets.mask_bits, [-1, height * width, channels])
    bits = unpack(tf.gather(bits, pixels, batch_dims=1), masks)
    return tf.transpose(bits, [0, 2, 1])
  flat = tf.reshape(targets.mask_bits, [-1, height * width * channels])
  own = tf.gather(flat, pixels * channels + mask // 8, batch_dims=1)
  bits = tf.bitwise.right_shift(tf.cast(own, tf.int32), mask % 8)
  return tf.equal(tf.bitwise.bitwise_and(bits, 1), 1)


def _crossings(targets: AnyMaskTargets, rows: np.ndarray, columns: np.ndarray) -> tf.Tensor:
  """Returns which masks cover the pixels at the crossings of the given rows and columns.

  Args:
    targets: Targets with a static size.
    rows: int [height], indices of rows.
    columns: int [width], indices of columns.

  Returns:
    bool [batch, height, width, masks].
  """
  masks = targets.mask_classes.shape[1]
  is_partition = isinstance(targets, MaskTargets)
  maps = targets.mask_ids if is_partition else targets.mask_bits
  maps = tf.gather(tf.gather(maps, rows, axis=1), columns, axis=2)
  if is_partition:
    return tf.equal(maps[..., tf.newaxis], tf.range(masks))
  return unpack(maps, masks)


def _neighbors(source: int, target: int) -> list[tuple[np.ndarray, np.ndarray]]:
  """Returns, for both neighbors of each target position, their indices and float32 weights."""
  position = (np.arange(target) + 0.5) * (source / target) - 0.5
  position = np.clip(position, 0, source - 1)
  before = np.floor(position).astype(np.int32)
  share = (position - before).astype(np.float32)
  return [(before, 1 - share), (np.minimum(before + 1, source - 1), share)]
