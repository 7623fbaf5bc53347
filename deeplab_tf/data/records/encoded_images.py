"""Decodes JPEG and PNG inside TensorFlow, after checking the size stated in the header.

The result equals that of formats.rgb_images, except that values decoded from JPEGs may differ
slightly.
"""

import tensorflow as tf

from deeplab_tf.data.records import encoded_orientation
from deeplab_tf.formats import image_limits

_JPEG = b'\xff\xd8\xff'
# The signature, and length and type of the header, which has to be the first chunk.
_PNG = b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR'
# Adobe's segment of a JPEG, which marks CMYK values as inverted. All programs write inverted CMYK,
# but some omit the segment. If there are two, the second one counts.
_ADOBE = b'\xff\xee\0\x0eAdobe\0d\0\0\0\0\0'
_NO_IMAGE = 'the image is neither JPEG nor PNG, or it is corrupt'


def problem(encoded: tf.Tensor) -> tf.Tensor:
  """Returns why an image must not be decoded (its format or its size), without reading pixels.

  GIF and BMP are rejected too: they are never written to records, and all frames of a GIF would be
  decoded.

  Args:
    encoded: string [], the bytes of an image file.

  Returns:
    string []; empty if the image may be decoded.

  Raises:
    tf.errors.InvalidArgumentError: When run on a JPEG whose header is corrupt.
  """
  start = tf.strings.join([tf.strings.substr(encoded, 0, len(_PNG) + 8), ' ' * (len(_PNG) + 8)])
  # The width comes first, and numbers are unsigned.
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


def decode(encoded: tf.Tensor, upright: bool = True) -> tf.Tensor:
  """Decodes an image that has no `problem` to RGB.

  Args:
    encoded: string [], the bytes of an image file.
    upright: Whether the EXIF orientation is applied; it is not for images inside records.

  Returns:
    uint8 [height, width, 3].
  """
  if not upright:
    return _pixels(encoded)
  image = tf.cond(encoded_orientation.is_plain(encoded), lambda: _pixels(encoded),
                  lambda: _unusual(encoded))
  return tf.ensure_shape(image, [None, None, 3])


def _pixels(encoded):
  # As in DeepLab2, so that samples are bitwise equal: the fast cosine transform for JPEGs, and the
  # high byte of 16-bit PNGs.
  image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  return tf.ensure_shape(image, [None, None, 3])


# Not inlined, since ops that are not needed cost time too.
@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False,
             experimental_attributes={'_noinline': True})
def _unusual(encoded):
  """Decodes any file, including CMYK and rotated images; see `decode`."""
  is_jpeg = tf.strings.substr(encoded, 0, len(_JPEG)) == _JPEG
  channels = tf.cond(is_jpeg, lambda: tf.image.extract_jpeg_shape(encoded)[2], lambda: 3)
  marked = tf.strings.join([tf.strings.substr(encoded, 0, 2), _ADOBE, tf.strings.substr(
      encoded, 2, tf.strings.length(encoded))])
  image = _pixels(tf.cond(channels == 4, lambda: marked, lambda: encoded))
  return encoded_orientation.upright(image, encoded_orientation.stated(encoded))


def decode_or_problem(encoded: tf.Tensor, upright: bool = True) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the image, without pixels if it has a problem, and the result of `problem`."""
  found = problem(encoded)
  image = tf.cond(found == '', lambda: decode(encoded, upright),
                  lambda: tf.zeros([0, 0, 3], tf.uint8))
  return tf.ensure_shape(image, [None, None, 3]), found
