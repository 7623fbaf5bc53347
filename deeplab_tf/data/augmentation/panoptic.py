"""Makes a training crop of an image: resizing, color changes, cropping and copy-paste."""

import tensorflow as tf

from deeplab_tf import structures
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import label_maps
from deeplab_tf.data.augmentation import (
  autoaugment,
  color_jitter,
  copy_paste,
  instance_copy_paste,
  placement,
  transforms,
)
from deeplab_tf.data.augmentation import options as options_lib

# An image, float32 [height, width, 3], and its label.
Sample = tuple[tf.Tensor, label_maps.Label]
# The gray that Mask2Former pads images with, before normalization.
_MASK2FORMER_GREY = (128.0, 128.0, 128.0)
# The whole image is resized, and not only the crop, up to this many times the size of the crop.
_WHOLE = 3


def augment(example: structures.LabeledImage, augmentation: options_lib.Augmentation,
            info: DatasetInfo, seed: tf.Tensor) -> Sample:
  """Makes a training crop, a function of the image and the seed, without copy-paste.

  Args:
    example: A decoded image.
    augmentation: Augmentation options.
    info: The data set.
    seed: int64 [2].

  Returns:
    float32 [*crop_size, 3] in [0, 255], and the label of the crop.
  """
  return _augment(example, augmentation, info, seed, info.void_label)


def augment_and_paste(example: structures.LabeledImage, other: structures.LabeledImage,
                      augmentation: options_lib.Augmentation, *, info: DatasetInfo, max_things: int,
                      seed: tf.Tensor) -> Sample:
  """Makes a training crop as `augment` does, and pastes segments of another image.

  Args:
    example: A decoded image.
    other: A decoded image that the segments come from.
    augmentation: Augmentation options, in which `paste` is set.
    info: The data set.
    max_things: Largest number of instances in one image.
    seed: int64 [2].
  """
  onto = augment(example, augmentation, info, seed)
  pasted = pasted_crop(other, augmentation, info, seed)
  size = augmentation.crop_size
  if info.masks_overlap:
    image, label = instance_copy_paste.paste(
        onto, pasted, option=augmentation.paste.thing, max_instances=max_things,
        seed=_fold(seed, 5))
    return tf.ensure_shape(image, [*size, 3]), label
  image, label = copy_paste.paste(onto, pasted, choice=augmentation.paste, info=info,
                                  max_things=max_things, seed=_fold(seed, 5))
  return tf.ensure_shape(image, [*size, 3]), tf.ensure_shape(label, size)


def pasted_crop(other: structures.LabeledImage, augmentation: options_lib.Augmentation,
                info: DatasetInfo, seed: tf.Tensor) -> Sample:
  """Returns the crop that segments are taken from; `seed` is that of the crop they go to."""
  return _augment(other, augmentation.scaled(augmentation.paste.scale), info, _fold(seed, 4),
                  copy_paste.padding_label(info))


def _augment(example, augmentation, info, seed, padding_label):
  place = draw_placement(example.label, augmentation, info, seed)
  image = resize(example.image, place, augmentation)
  image = change_colors(image, augmentation, seed)
  return crop(image, example.label, place, augmentation, padding_label)


# --- The steps --------------------------------------------------------------------------------


def draw_placement(label: label_maps.Label, augmentation: options_lib.Augmentation,
                   info: DatasetInfo, seed: tf.Tensor) -> placement.Placement:
  """Draws the placement of the crop, a function of the seed and of the label map."""
  return placement.draw(label_maps.pixels(label), augmentation, info,
                        [_fold(seed, i) for i in (0, 2, 3)])


def resize(image: tf.Tensor, place: placement.Placement,
           augmentation: options_lib.Augmentation) -> tf.Tensor:
  """Resizes an image.

  With DeepLab2's resizing the whole image is resized: TensorFlow's kernel for that is faster than
  any way to compute the same values for a part of it.

  Args:
    image: uint8 [height, width, 3].
    place: Placement of the crop.
    augmentation: Augmentation options.

  Returns:
    float32 [*kept, 3], the window; the whole image if `augmentation.colors_before_crop`.
  """
  values = tf.cast(image, tf.float32)
  if augmentation.is_mask2former:
    return _resize_like_pillow(values, place)
  if any(augmentation.min_size) or any(augmentation.max_size):
    values, _ = transforms.resize(values, None, place.resized)
  if augmentation.scale[:2] != (1.0, 1.0):
    values, _ = transforms.resize(values, None, place.scaled)
  return values if augmentation.colors_before_crop else _window(values, place)


def _resize_like_pillow(values, place):
  """Resizes bilinearly with antialiasing (a pixel averages those that it covers) and rounds.

  If there are two resizings, the places of the pixels are composed, and values are computed once.
  """
  size = place.scaled
  enlarges = tf.reduce_all(size >= place.source)
  is_near = tf.reduce_prod(size) <= _WHOLE * tf.reduce_prod(place.kept)
  is_once = tf.reduce_all((place.resized == place.source) & (place.first_kept == place.source))
  second = _ratio(size, place.first_kept)
  shift = second * tf.cast(place.first_start, tf.float32) + tf.cast(place.start, tf.float32)
  # Both branches compute the same values up to rounding; the first is faster where it applies.
  resized = tf.cond(
      enlarges & is_near & is_once,
      lambda: _window(tf.image.resize(values, size), place),
      lambda: tf.raw_ops.ScaleAndTranslate(
          images=values[None], size=place.kept, scale=second * _ratio(place.resized, place.source),
          kernel_type='triangle', translation=-shift, antialias=True)[0])
  return tf.round(resized)


def _ratio(size, other):
  return tf.cast(size, tf.float32) / tf.cast(other, tf.float32)


def change_colors(image: tf.Tensor, augmentation: options_lib.Augmentation,
                  seed: tf.Tensor) -> tf.Tensor:
  """Changes the colors of a float32 image [height, width, 3] in [0, 255]."""
  seed = _fold(seed, 1)
  if augmentation.policy:
    image = autoaugment.distort(image, augmentation.policy, seed)
  if augmentation.colors:
    change = color_jitter.draw(augmentation.colors, _fold(seed, 1))
    image = color_jitter.apply(tf.floor(image), change)
  return image


def crop(image: tf.Tensor, label: label_maps.Label, place: placement.Placement,
         augmentation: options_lib.Augmentation, padding_label: int) -> Sample:
  """Cuts out the windows of image and label and pads them to the crop size.

  Args:
    image: Result of `resize`, possibly with changed colors.
    label: Label of the image's original size.
    place: Placement of the crop.
    augmentation: Augmentation options.
    padding_label: Value that pads a panoptic map. Padding is in no mask of an InstanceLabel.

  Returns:
    float32 [*crop_size, 3], and the label, whose map has the size of the crop.
  """
  if augmentation.colors_before_crop:
    image = _window(image, place)
  pixels = placement.take_label(label_maps.pixels(label), place, augmentation.is_mask2former)
  if augmentation.flip:
    image = tf.cond(place.flip, lambda: tf.reverse(image, [1]), lambda: image)
  color = augmentation.normalization.mean_color
  if augmentation.is_mask2former:
    color = _MASK2FORMER_GREY
  size = augmentation.crop_size
  image, pixels = transforms.pad(image, pixels, size, offset=place.offset, color=color,
                                 void_label=label_maps.padding(label, padding_label))
  pixels = tf.ensure_shape(pixels, [*size, *pixels.shape[2:]])
  return tf.ensure_shape(image, [*size, 3]), label_maps.with_pixels(label, pixels)


def _window(image, place):
  return tf.slice(image, tf.concat([place.start, [0]], 0), tf.concat([place.kept, [3]], 0))


def _fold(seed, number):
  return tf.random.experimental.stateless_fold_in(seed, number)
