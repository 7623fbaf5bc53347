"""Image files of all kinds that users have, with the pixels that readers must find in them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

_SIZE = (12, 20)


def _pixels(channels=3, dtype=np.uint8):
  top = np.iinfo(dtype).max
  return np.random.default_rng(channels).integers(0, top, (*_SIZE, channels), dtype, endpoint=True)


def encoded(image, kind, **options):
  """Returns the bytes of a file."""
  stream = io.BytesIO()
  image.save(stream, kind, **options)
  return stream.getvalue()


def exif(value, order='<', kind=3):
  """Returns Exif data that state an orientation, without the "Exif" in front."""
  number = {1: 'Bxxx', 3: 'Hxx', 4: 'I'}[kind]
  return ({'<': b'II*\0', '>': b'MM\0*'}[order]
          + struct.pack(f'{order}IHHHI{number}I', 8, 1, 0x0112, kind, 1, value, 0))


def segment(marker, content):
  """Returns a segment of a JPEG."""
  return bytes([0xFF, marker]) + struct.pack('>H', len(content) + 2) + content


def chunk(kind, content):
  """Returns a chunk of a PNG."""
  return (struct.pack('>I', len(content)) + kind + content
          + struct.pack('>I', zlib.crc32(kind + content)))


def png16(values):
  """Returns a PNG with 16 bits, of uint16 [height, width, channels]."""
  height, width, channels = values.shape
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in values)
  header = struct.pack('>IIBBBBB', width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows))
          + chunk(b'IEND', b''))


def _turned(pixels, value):
  """The pixels as a viewer shows them, by Pillow's constants."""
  method = {2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE',
            6: 'ROTATE_270', 7: 'TRANSVERSE', 8: 'ROTATE_90'}.get(value)
  image = Image.fromarray(pixels)
  return np.asarray(image.transpose(Image.Transpose[method]) if method else image)


def _jpeg_pixels(content):
  return np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))


def _in_jpeg(plain, extra, at=2):
  return plain[:at] + extra + plain[at:]


def _in_png(plain, extra):
  return plain[:33] + extra + plain[33:]


def turned_files():
  """Returns name -> (bytes, pixels, uint8 [height, width, 3]) of files with an orientation."""
  pixels = _pixels()
  jpeg, png = encoded(Image.fromarray(pixels), 'JPEG', quality=90), encoded(
      Image.fromarray(pixels), 'PNG')
  stored = _jpeg_pixels(jpeg)
  found = {}
  for value in range(1, 9):
    for order in '<>':
      data = exif(value, order)
      found[f'jpeg {value}{order}'] = (
          _in_jpeg(jpeg, segment(0xE1, b'Exif\0\0' + data)), _turned(stored, value))
      found[f'png {value}{order}'] = _in_png(png, chunk(b'eXIf', data)), _turned(pixels, value)
  right = segment(0xE1, b'Exif\0\0' + exif(6))
  behind = 2 + 18  # The JFIF header.
  xmp = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>3</tiff:Orientation>')
  profiles = b''.join(segment(0xE2, b'ICC_PROFILE\0' + bytes(60000)) for _ in range(3))
  long = {
      'behind JFIF': _in_jpeg(jpeg, right, behind), 'behind XMP': _in_jpeg(jpeg, xmp + right),
      'behind profiles': _in_jpeg(jpeg, profiles + right, behind),
      'behind a comment': _in_jpeg(jpeg, segment(0xFE, b'made by hand') + right),
      'behind filling bytes': _in_jpeg(jpeg, b'\xff\xff' + right),
      'as BYTE': _in_jpeg(jpeg, segment(0xE1, b'Exif\0\0' + exif(6, '>', 1))),
      'as LONG': _in_jpeg(jpeg, segment(0xE1, b'Exif\0\0' + exif(6, '>', 4))),
      'the first of two': _in_jpeg(jpeg, right + segment(0xE1, b'Exif\0\0' + exif(3)))}
  found.update({name: (content, _turned(stored, 6)) for name, content in long.items()})
  wide = _in_png(png, chunk(b'tEXt', b'a\0' + bytes(70000)) + chunk(b'eXIf', exif(6)))
  found['png behind text'] = wide, _turned(pixels, 6)
  silent = {'value 0': exif(0), 'value 9': exif(9), 'cut off': exif(6)[:18], 'empty': b'',
            'no directory': exif(6)[:4] + b'\xff\xff\xff\xff', 'no order': b'XX' + exif(6)[2:]}
  for name, data in silent.items():
    found[f'jpeg {name}'] = _in_jpeg(jpeg, segment(0xE1, b'Exif\0\0' + data)), stored
    found[f'png {name}'] = _in_png(png, chunk(b'eXIf', data)), pixels
  found['XMP alone'] = _in_jpeg(jpeg, xmp), stored
  return found


def colored_files():
  """Returns name -> (bytes, pixels, uint8 [height, width, 3]) of files of all color modes."""
  rgb, gray, rgba = _pixels(), _pixels(1)[..., 0], _pixels(4)
  palette = Image.fromarray(rgb).quantize(16)
  colors = np.asarray(palette.convert('RGB'))
  bits = np.random.default_rng(2).random(_SIZE) > 0.5
  pale = rgba.copy()
  pale[:, ::2, 3] = 0
  grays, dots = (np.repeat(flat[..., None], 3, 2) for flat in (gray, bits * np.uint8(255)))
  found = {
      'RGB': (encoded(Image.fromarray(rgb), 'PNG'), rgb),
      'L': (encoded(Image.fromarray(gray), 'PNG'), grays),
      'LA': (encoded(Image.fromarray(rgba[..., 2:]), 'PNG'), np.repeat(rgba[..., 2:3], 3, 2)),
      'RGBA': (encoded(Image.fromarray(pale), 'PNG'), rgba[..., :3]),
      'P': (encoded(palette, 'PNG'), colors),
      'P with a transparent color': (encoded(palette, 'PNG', transparency=3), colors),
      'P with alpha': (encoded(palette, 'PNG', transparency=bytes(range(0, 160, 10))), colors),
      'RGB with a transparent color': (encoded(Image.fromarray(rgb), 'PNG', transparency=(
          *rgb[0, 0].tolist(),)), rgb),
      '1': (encoded(Image.fromarray(bits), 'PNG'), dots),
  }
  for channels in (1, 2, 3, 4):
    values = _pixels(channels, np.uint16)
    high = (values >> 8).astype(np.uint8)
    found[f'{channels} x 16 bits'] = png16(values), high[..., :3] if channels > 2 else np.repeat(
        high[..., :1], 3, 2)
  for name, options in (('JPEG', {}), ('progressive JPEG', {'progressive': True}),
                        ('JPEG 4:4:4', {'subsampling': 0}), ('coarse JPEG', {'quality': 20})):
    content = encoded(Image.fromarray(rgb), 'JPEG', **options)
    found[name] = content, _jpeg_pixels(content)
  content = encoded(Image.fromarray(gray), 'JPEG')
  found['gray JPEG'] = content, _jpeg_pixels(content)
  return {**found, **_cmyk_files()}


def _cmyk_files():
  # Smooth, so that the expected colors are not those of one decoder.
  ramp = np.linspace(0, 255, 20)
  ink = np.stack(np.broadcast_arrays(ramp[None], ramp[::-1][None], ramp[:12, None], 60.0), -1)
  adobe = encoded(Image.fromarray(ink.astype(np.uint8), 'CMYK'), 'JPEG', quality=95)
  place = adobe.index(b'Adobe')
  kinds = {'CMYK': adobe, 'YCCK': adobe[:place + 11] + b'\x02' + adobe[place + 12:],
           'CMYK without a mark': adobe[:place - 4] + adobe[place + 12:]}
  found = {}
  for name, content in kinds.items():
    stored = 255 - np.asarray(Image.open(io.BytesIO(content))).astype(int)
    found[name] = content, (stored[..., :3] * stored[..., 3:] // 255).astype(np.uint8)
  return found
