"""Image files that try to take memory or time or to confuse: small files that claim to be large."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
HUGE = (100000, 100000)


def chunk(kind: bytes, data: bytes) -> bytes:
  """Returns a chunk of a PNG with its right checksum."""
  return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width: int, height: int, *before: bytes, pixels: bytes = b'', after: bytes = b'',
        bits: int = 8, color: int = 2, interlace: int = 0) -> bytes:
  """Returns a PNG with a given header, whatever its pixels are.

  Args:
    width, height: As the header states them.
    *before: Chunks between header and pixels.
    pixels: What the compressed data hold; by default one row of nothing.
    after: What follows the end.
    bits, color, interlace: Of the header.
  """
  header = struct.pack('>IIBBBBB', width, height, bits, color, 0, 0, interlace)
  data = zlib.compress(pixels or bytes(100))
  return (PNG_SIGNATURE + chunk(b'IHDR', header) + b''.join(before) + chunk(b'IDAT', data)
          + chunk(b'IEND', b'') + after)


def jpeg(width: int, height: int, progressive: bool = False, extra: bytes = b'') -> bytes:
  """Returns a JPEG of 16x16 pixels whose header states another size.

  Args:
    width, height: Up to 65535.
    progressive: Whether it is a progressive one.
    extra: Segments behind the first marker.
  """
  stream = io.BytesIO()
  Image.new('RGB', (16, 16), (9, 99, 200)).save(stream, 'JPEG', progressive=progressive)
  content = bytearray(stream.getvalue())
  frame = content.index(b'\xff\xc2' if progressive else b'\xff\xc0')
  content[frame + 5:frame + 9] = struct.pack('>HH', height, width)
  return bytes(content[:2]) + extra + bytes(content[2:])


def gif(width: int, height: int, frames: int = 1) -> bytes:
  """Returns a GIF of a given size and number of frames, with a pixel in each."""
  screen = b'GIF89a' + struct.pack('<HHBBB', width, height, 0x80, 0, 0) + bytes(6)
  frame = b',' + struct.pack('<HHHHB', 0, 0, width, height, 0) + b'\x02\x02\x44\x01\x00'
  return screen + frame * frames + b';'


def bmp(width: int, height: int) -> bytes:
  """Returns a BMP of a given size without pixels."""
  return (b'BM' + struct.pack('<IHHI', 54, 0, 0, 54)
          + struct.pack('<IiiHHIIiiII', 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(64))


def tiff(width: int, height: int) -> bytes:
  """Returns a TIFF of a given size with a few bytes of pixels."""
  tags = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1),
          (278, height), (279, 64))
  entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags)
  return (b'II*\0' + struct.pack('<I', 72) + bytes(64) + struct.pack('<H', len(tags)) + entries
          + bytes(4))


def text_bomb(kind: bytes, megabytes: int = 64) -> bytes:
  """Returns a compressed text or profile chunk that is large when unpacked."""
  packed = zlib.compress(bytes(megabytes << 20), 9)
  body = {b'zTXt': b'key\0\0' + packed, b'iTXt': b'key\0\1\0\0\0' + packed,
          b'iCCP': b'name\0\0' + packed}[kind]
  return chunk(kind, body)


def exif_bomb() -> bytes:
  """Returns an EXIF segment whose entries state more values than there are, in a circle."""
  entries = b''.join(struct.pack('<HHII', tag, kind, 0xFFFFFFFF, 8) for tag, kind in (
      (0x0112, 3), (0x010F, 2), (0x8769, 4), (0x8825, 4)))
  body = b'Exif\0\0II*\0' + struct.pack('<IH', 8, 4) + entries + struct.pack('<I', 8)
  return b'\xff\xe1' + struct.pack('>H', len(body) + 2) + body


def sound(kind: str = 'png', size: tuple = (12, 10)) -> bytes:
  """Returns a small sound image of random pixels, (width, height)."""
  pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, kind)
  return stream.getvalue()


# Makers of images beyond the limit of deeplab_tf.formats.image_limits, by name.
TOO_LARGE = {
    'png_header': lambda: png(*HUGE),
    'png_grey_one_bit': lambda: png(*HUGE, bits=1, color=0),
    'png_interlaced': lambda: png(*HUGE, interlace=1),
    'png_just_above': lambda: png(16384, 8193),
    'png_long': lambda: png(65536, 1),
    'png_zeros': lambda: png(20000, 20000, pixels=bytes(20000 * 2000)),
    'png_behind_text': lambda: png(*HUGE, text_bomb(b'zTXt')),
    'jpeg_header': lambda: jpeg(65500, 65500),
    'jpeg_progressive': lambda: jpeg(65500, 65500, progressive=True),
    'jpeg_just_above': lambda: jpeg(16384, 8193),
}
