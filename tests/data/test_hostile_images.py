"""Small image files that claim to be large are refused before memory is allocated."""

import io
import warnings

import hostile_images
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf import cli
from deeplab_tf.data import errors
from deeplab_tf.data.records import encoded_images, tfrecord
from deeplab_tf.data.sources import _image_files, _panoptic_format
from deeplab_tf.export import serving_module
from deeplab_tf.formats import coco_panoptic, image_limits, rgb_images
from deeplab_tf.user_errors import UserError

TOO_LARGE = hostile_images.TOO_LARGE
PNGS = [name for name in TOO_LARGE if name.startswith('png')]


def _by_pillow(name):
  readers = {'photographs': rgb_images.read,
             'records': lambda path: _image_files.example(path, None)}
  if name.startswith('png'):
    readers['labels'] = _panoptic_format.read_segment_ids
    readers['scores'] = coco_panoptic.read_panoptic_png
  return readers


def _compiled(decode):
  return tf.function(lambda encoded: decode(encoded, ['FILE', ': ']),
                     input_signature=[tf.TensorSpec([], tf.string)])


@pytest.fixture(name='decoded', scope='module')
def fixture_decoded():
  return _compiled(tfrecord.decode_image)


@pytest.fixture(name='decoded_or_named', scope='module')
def fixture_decoded_or_named():
  return _compiled(tfrecord.decode_or_name)


def _peak(reset=False):
  """Megabytes of memory that the process had at most since the last reset; None elsewhere."""
  try:
    if reset:
      with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
        file.write('5')
    with open('/proc/self/status', encoding='ascii') as file:
      return next(int(line.split()[1]) // 1024 for line in file if line.startswith('VmHWM'))
  except (OSError, StopIteration):
    return None


@pytest.fixture(name='little_memory')
def fixture_little_memory():
  """Fails where a test took more than 100 megabytes."""
  before = _peak(reset=True)
  yield
  if before is not None:
    assert _peak() - before < 100


# --- The limit --------------------------------------------------------------------------------


@pytest.mark.usefixtures('little_memory')
@pytest.mark.parametrize('name', TOO_LARGE)
def test_tensorflow_is_not_given_what_is_too_large(decoded, decoded_or_named, name):
  encoded = tf.constant(TOO_LARGE[name]())
  for decode in (decoded, decoded_or_named):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
      decode(encoded)
    line = errors.stated(error.value)
    assert line.startswith('FILE: the image is ') and image_limits.RULE in line


@pytest.mark.usefixtures('little_memory')
@pytest.mark.parametrize('name', TOO_LARGE)
def test_pillow_does_not_load_what_is_too_large(tmp_path, name):
  path = tmp_path / 'x.img'
  path.write_bytes(TOO_LARGE[name]())
  for reader in _by_pillow(name).values():
    with pytest.raises(ValueError) as error:
      reader(str(path))
    line = str(error.value)
    # Pillow gives up at texts that are unpacked before the size is known to it.
    assert image_limits.RULE in line or 'MAX_TEXT_CHUNK' in line
    assert line.startswith(f'{path}: ') and '\n' not in line
    assert isinstance(error.value, UserError)


@pytest.mark.usefixtures('little_memory')
def test_the_exported_signature_refuses_too(tmp_path):
  class Module(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def sizes(self, encoded):
      return tf.map_fn(lambda x: tf.shape(serving_module._decode(x))[:2], encoded,
                       fn_output_signature=tf.int32)

  tf.saved_model.save(Module(), str(tmp_path))
  sizes = tf.saved_model.load(str(tmp_path)).sizes
  sound = hostile_images.sound('jpeg'), hostile_images.sound('png')
  assert sizes(tf.constant(sound)).numpy().tolist() == [[10, 12], [10, 12]]
  for make in TOO_LARGE.values():
    with pytest.raises(tf.errors.InvalidArgumentError, match='make it smaller'):
      sizes(tf.constant([sound[0], make()]))


@pytest.mark.parametrize('width, height', [(16384, 8192), (65535, 2048), (1, 65535)])
def test_sizes_up_to_the_limit_pass(width, height):
  assert encoded_images.problem(tf.constant(hostile_images.png(width, height))) == b''
  if width < 65535:  # As libjpeg allows.
    assert encoded_images.problem(tf.constant(hostile_images.jpeg(width, min(height, 9000)))) == b''


def test_large_photographs_are_read_without_a_warning(tmp_path, monkeypatch):
  # As from 89 megapixels on, where Pillow warns.
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  (tmp_path / 'x.png').write_bytes(hostile_images.sound())
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    cli.quiet_tensorflow()
    assert rgb_images.read(str(tmp_path / 'x.png')).shape == (10, 12, 3)
  assert not caught


# --- Other ways to take memory ----------------------------------------------------------------

PIXELS = bytes(31 * 10)
BOMBS = {
    'zTXt': lambda: hostile_images.png(10, 10, hostile_images.text_bomb(b'zTXt'), pixels=PIXELS),
    'iTXt': lambda: hostile_images.png(10, 10, hostile_images.text_bomb(b'iTXt'), pixels=PIXELS),
    'iCCP': lambda: hostile_images.png(10, 10, hostile_images.text_bomb(b'iCCP'), pixels=PIXELS),
    'IDAT': lambda: hostile_images.png(10, 10, pixels=bytes(64 << 20)),
    'EXIF': lambda: hostile_images.jpeg(16, 16, extra=hostile_images.exif_bomb()),
    'GIF': lambda: hostile_images.gif(65535, 65535),
    'frames': lambda: hostile_images.gif(4000, 4000, 500),
    'BMP': lambda: hostile_images.bmp(100000, -100000),
    'TIFF': lambda: hostile_images.tiff(100000, 100000),
    'behind': lambda: hostile_images.png(10, 10, pixels=PIXELS, after=bytes(1000)),
    'empty': lambda: hostile_images.png(0, 10),
    'flat': lambda: hostile_images.jpeg(16, 0),
}


@pytest.mark.usefixtures('little_memory')
@pytest.mark.parametrize('name', BOMBS)
def test_bombs_are_read_or_refused_without_memory(tmp_path, decoded_or_named, name):
  content = BOMBS[name]()
  path = tmp_path / 'x.img'
  path.write_bytes(content)
  for reader in _by_pillow('png').values():
    try:
      reader(str(path))
    except ValueError as error:
      assert str(error).startswith(f'{path}: ') and isinstance(error, UserError)
  try:
    assert decoded_or_named(tf.constant(content)).shape[2] == 3
  except tf.errors.InvalidArgumentError as error:
    assert errors.stated(error).startswith('FILE: the image is ')


@pytest.mark.parametrize('kind', ['gif', 'bmp', 'tiff', 'webp'])
def test_tensorflow_reads_nothing_but_jpeg_and_png(decoded, kind):
  encoded = tf.constant(hostile_images.sound(kind))
  with pytest.raises(tf.errors.InvalidArgumentError, match='neither JPEG nor PNG'):
    decoded(encoded)


def test_the_header_must_be_the_first_chunk(decoded):
  # Else the size would be looked for in the wrong place.
  content = hostile_images.png(*hostile_images.HUGE)
  signature, rest = content[:8], content[8:]
  first = hostile_images.chunk(b'teXt', b'\0\0\0\x0a\0\0\0\x0a')
  with pytest.raises(tf.errors.InvalidArgumentError, match='neither JPEG nor PNG'):
    decoded(tf.constant(signature + first + rest))


# --- What is read -----------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp', 'tiff', 'bmp', 'gif', 'ppm', 'mpo'])
def test_usual_photographs_are_read(tmp_path, decoded, kind):
  path = tmp_path / 'x.img'
  path.write_bytes(hostile_images.sound(kind))
  assert rgb_images.read(str(path)).shape == (10, 12, 3)
  if kind in ('jpeg', 'png', 'mpo'):
    example = _image_files.example(str(path), None)
    assert (example.height, example.width) == (10, 12)
    assert decoded(tf.constant(example.encoded)).shape == (10, 12, 3)


def test_photographs_stand_upright_whatever_their_exif_data_are(tmp_path):
  pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  for value, shape in ((6, (4, 2, 3)), (1, (2, 4, 3)), (99, (2, 4, 3))):
    exif = Image.Exif()
    exif[0x0112] = value
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'png', exif=exif.tobytes())
    (tmp_path / 'x.png').write_bytes(stream.getvalue())
    assert rgb_images.read(str(tmp_path / 'x.png')).shape == shape
