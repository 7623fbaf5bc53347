"""EXIF orientation of encoded images inside TensorFlow; see formats.orientation."""

import tensorflow as tf

from deeplab_tf.formats import orientation

_JPEG, _PNG = b'\xff\xd8', b'\x89PNG\r\n\x1a\n'
_EXIF = b'Exif\0\0'
# Offsets and bytes of common file starts: for JPEG the JFIF header followed by the tables, possibly
# with the usual color profile in between; for PNG pixel data directly after the header.
_PLAIN = ((0, b'\xff\xd8\xff\xe0\0\x10JFIF'), (20, b'\xff\xdb'), (20, b'\xff\xe2\x0c\x58'),
          (3182, b'\xff\xdb'), (37, b'IDAT'))
_LOOK = 3184


def stated(encoded: tf.Tensor) -> tf.Tensor:
  """Returns the orientation stated in an image file; equals formats.orientation.stated.

  Args:
    encoded: string [], the bytes of a file.

  Returns:
    int32 [], 1 to 8.
  """
  is_jpeg = tf.strings.substr(encoded, 0, len(_JPEG)) == _JPEG
  is_png = tf.strings.substr(encoded, 0, len(_PNG)) == _PNG
  start, end = tf.cond(is_jpeg, lambda: _walk(encoded, len(_JPEG), _jpeg_segment),
                       lambda: _walk(encoded, len(_PNG), _png_chunk))
  return tf.cond((is_jpeg | is_png) & (start > 0),
                 lambda: _in_tiff(_part(encoded, start, end - start)), lambda: tf.constant(1))


def is_plain(encoded: tf.Tensor) -> tf.Tensor:
  """Returns whether the start of a file rules out EXIF data, which is cheaper than `stated`.

  Args:
    encoded: string [], the bytes of a file.

  Returns:
    bool [].
  """
  start = tf.strings.join([tf.strings.substr(encoded, 0, _LOOK), '\0' * _LOOK])
  places, texts = zip(*_PLAIN)
  parts = tf.strings.substr(tf.stack([start] * len(places)), places, [len(t) for t in texts])
  jfif, tables, profile, tables_behind, png = tf.unstack(parts == tf.constant(texts))
  return jfif & (tables | profile & tables_behind) | png


def upright(image: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
  """Rotates an image upright; equals formats.orientation.upright.

  Args:
    image: uint8 [height, width, channels], as it is stored.
    number: int32 [], EXIF orientation from 1 to 8.
  """

  def turned():
    result = tf.cond(_among(number, orientation.TRANSPOSED),
                     lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    result = tf.cond(_among(number, orientation.MIRRORED),
                     lambda: tf.reverse(result, [1]), lambda: result)
    return tf.cond(_among(number, orientation.FLIPPED),
                   lambda: tf.reverse(result, [0]), lambda: result)

  return tf.cond(number == 1, lambda: image, turned)


def _among(number, numbers):
  return tf.reduce_any(number == tf.constant(numbers))


# --- Finding the orientation ------------------------------------------------------------------


def _walk(encoded, start, step):
  """Walks through the segments or chunks of a file to the TIFF structure with the EXIF data.

  Args:
    encoded: string [], the bytes of the file.
    start: Offset of the first part.
    step: Function of the file and the offset of a part. It returns the offset of the next part,
      -1 after the last one, and begin and end of the TIFF structure in this part, 0 without one.

  Returns:
    Begin and end of the TIFF structure, int64 []; 0 without one.
  """
  zero = tf.constant(0, tf.int64)
  _, begin, end = tf.while_loop(
      lambda position, begin, end: (position >= 0) & (begin == 0),
      lambda position, begin, end: step(encoded, position),
      (tf.constant(start, tf.int64), zero, zero), parallel_iterations=1,
      maximum_iterations=orientation.MAX_PARTS)
  return begin, end


def _jpeg_segment(encoded, position):
  head = _bytes(encoded, position, 10)
  marker, length = 256 * head[0] + head[1], 256 * head[2] + head[3]
  is_fill = marker == 0xFFFF
  is_segment = (length >= 2) & ((marker // 16 == 0xFFE) | (marker == 0xFFFE))
  is_exif = is_segment & (marker == 0xFFE1) & tf.reduce_all(head[4:] == list(_EXIF))
  end = position + 2 + length
  zero = tf.zeros_like(position)
  following = tf.where(is_fill, position + 1, tf.where(is_segment, end, zero - 1))
  return following, tf.where(is_exif, position + 10, zero), tf.where(is_exif, end, zero)


def _png_chunk(encoded, position):
  length = _number(_bytes(encoded, position, 4), tf.constant(False))
  kind = _part(encoded, position + 4, tf.constant(4, tf.int64))
  is_last = tf.reduce_any(kind == tf.constant([b'IDAT', b'IEND'])) | (tf.strings.length(kind) < 4)
  is_exif = kind == b'eXIf'
  begin = position + 8
  prefixed = _part(encoded, begin, tf.constant(len(_EXIF), tf.int64)) == _EXIF
  begin = tf.where(prefixed, begin + len(_EXIF), begin)
  end = position + 8 + length
  zero = tf.zeros_like(position)
  return (tf.where(is_last, zero - 1, end + 4), tf.where(is_exif, begin, zero),
          tf.where(is_exif, end, zero))


def _in_tiff(content):
  """Returns the orientation in the first directory of a TIFF structure."""
  order = _part(content, tf.constant(0, tf.int64), tf.constant(4, tf.int64))
  little = order == b'II*\0'
  start = _number(_bytes(content, tf.constant(4, tf.int64), 4), little)
  entries = _number(_bytes(content, start, 2), little)
  raw = tf.io.decode_raw(_part(content, start + 2, 12 * entries), tf.uint8)
  fields = tf.cast(tf.reshape(raw[:tf.size(raw) // 12 * 12], [-1, 12]), tf.int64)
  kind = _number(fields[:, 2:4], little)
  values = tf.where(kind == 1, fields[:, 8], tf.where(
      kind == 3, _number(fields[:, 8:10], little), _number(fields[:, 8:12], little)))
  kinds = tf.constant(list(orientation.NUMBER_FORMATS), tf.int64)
  is_stated = (_number(fields[:, :2], little) == orientation.TAG) & (
      _number(fields[:, 4:8], little) == 1) & tf.reduce_any(kind[:, None] == kinds, 1)
  found = tf.concat([tf.boolean_mask(values, is_stated), [1]], 0)[0]
  sound = (little | (order == b'MM\0*')) & (found >= 1) & (found <= 8)
  return tf.cast(tf.where(sound, found, 1), tf.int32)


def _number(values, little):
  """Returns the int64 numbers that bytes along the last axis encode."""
  count = values.shape[-1]
  powers = tf.constant([256**place for place in range(count)], tf.int64)
  return tf.reduce_sum(values * tf.where(little, powers, powers[::-1]), -1)


def _bytes(text, position, size):
  """Returns int64 [size], the bytes of a string from a position on, padded with zeros."""
  padded = tf.strings.join([_part(text, position, tf.constant(size, tf.int64)), '\0' * size])
  numbers = tf.io.decode_raw(tf.strings.substr(padded, 0, size), tf.uint8)
  return tf.cast(tf.reshape(numbers, [size]), tf.int64)


def _part(text, position, size):
  """Returns a substring, string []; shorter if the text ends before."""
  length = tf.cast(tf.strings.length(text), tf.int64)
  return tf.strings.substr(text, tf.minimum(position, length), tf.maximum(size, 0))
