"""Decodes JPEG and PNG inside TensorFlow, after a look at the size that the first bytes state."""

import tensorflow as tf

from deeplab_tf import image_limits

_JPEG = b'\xff\xd8\xff'
# The signature, and the header's length and kind: the header has to be the first chunk.
_PNG = b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR'
_NO_IMAGE = 'the image is neither JPEG nor PNG, or it is damaged'


def problem(encoded: tf.Tensor) -> tf.Tensor:
  """Says why an image must not be decoded: what it is, or its size; no pixel is read.

  GIF and BMP are refused too: nothing here writes them, and a GIF of many pictures is unpacked as
  a whole.

  Args:
    encoded: string [], the bytes of an image file.

  Returns:
    string []; empty if it may be decoded.

  Raises:
    tf.errors.InvalidArgumentError: When it runs, on a JPEG whose header is damaged.
  """
  start = tf.strings.join([tf.strings.substr(encoded, 0, len(_PNG) + 8), ' ' * (len(_PNG) + 8)])
  # Width comes first, and no number is negative.
  png_size = tf.bitcast(tf.reverse(tf.io.decode_raw(
      tf.strings.substr(start, len(_PNG), 8), tf.int32, little_endian=False), [0]), tf.uint32)
  is_png = tf.strings.substr(start, 0, len(_PNG)) == _PNG
  size = tf.cond(
      tf.strings.substr(start, 0, len(_JPEG)) == _JPEG,
      lambda: tf.cast(tf.image.extract_jpeg_shape(encoded)[:2], tf.int64),
      lambda: tf.where(is_png, tf.cast(png_size, tf.int64), 0))
  text = tf.strings.as_string(size)
  too_large = tf.strings.join(['the image is ', text[0], 'x', text[1], f': {image_limits.RULE}'])
  is_small = (tf.reduce_max(size) <= image_limits.MAX_SIDE) & (
      size[0] * size[1] <= image_limits.MAX_PIXELS)
  return tf.where(tf.reduce_any(size == 0), _NO_IMAGE, tf.where(is_small, '', too_large))


def decode(encoded: tf.Tensor) -> tf.Tensor:
  """Decodes an image that has no `problem` to uint8 [height, width, 3]; grey becomes RGB."""
  image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  return tf.ensure_shape(image, [None, None, 3])


def decode_or_problem(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the image, one without pixels if it has a problem, and the `problem`."""
  found = problem(encoded)
  image = tf.cond(found == '', lambda: decode(encoded), lambda: tf.zeros([0, 0, 3], tf.uint8))
  return tf.ensure_shape(image, [None, None, 3]), found
