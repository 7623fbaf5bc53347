"""Every reader finds the same pixels in every kind of image file."""

import io

import image_battery
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.data import catalog
from deeplab_tf.data.records import encoded_images, tfrecord
from deeplab_tf.data.sources import _image_files, _labeled_files
from deeplab_tf.export import serving_module
from deeplab_tf.formats import orientation, rgb_images
from deeplab_tf.user_errors import HostError, MissingFileError, UserError

FILES = {**image_battery.turned_files(), **image_battery.colored_files()}
INFO = catalog.built_in('coco_panoptic')


@pytest.fixture(name='decoders', scope='module')
def _decoders():
  signature = [tf.TensorSpec([], tf.string)]
  return {'served': tf.function(serving_module._decode, signature, autograph=False),
          'decoded': tf.function(encoded_images.decode, signature, autograph=False),
          'record': tf.function(lambda encoded: tfrecord.decode_image(encoded, ['x']), signature,
                                autograph=False)}


@pytest.mark.parametrize('name', FILES)
def test_every_reader_finds_the_same_pixels(tmp_path, decoders, name):
  content, expected = FILES[name]
  path = tmp_path / 'x.img'
  path.write_bytes(content)
  example = _image_files.example(str(path), None)
  raw = _labeled_files.direct(_labeled_files.unlabeled([str(path)]), INFO, with_label=False)
  found = {'predict': rgb_images.read(str(path)), 'raw': raw.load(tf.constant(0)).image,
           'served': decoders['served'](content), 'decoded': decoders['decoded'](content),
           'record': decoders['record'](example.encoded)}
  is_jpeg = content.startswith(b'\xff\xd8')
  for reader, pixels in found.items():
    is_stored_anew = reader == 'record' and example.encoded != content
    if not is_jpeg or reader == 'predict' or is_stored_anew:
      np.testing.assert_array_equal(pixels, expected, reader)
    else:  # TensorFlow's cosine transform is the fast one; its readers are equal to each other.
      np.testing.assert_array_equal(pixels, found['raw'], reader)
      assert np.abs(np.subtract(pixels, expected, dtype=np.int32)).mean() < 2, reader
  assert (example.height, example.width) == expected.shape[:2]


@pytest.mark.parametrize('name', FILES)
def test_records_can_be_read_by_any_program(name):
  content, expected = FILES[name]
  example = _image_files.from_bytes(content, 'x', None)
  with Image.open(io.BytesIO(example.encoded)) as image:
    assert image.mode == 'RGB' and orientation.stated(example.encoded) == 1
    assert image.format == example.format.upper()
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_bytes_of_usual_files_are_kept():
  for name in ('RGB', 'JPEG', 'progressive JPEG', '3 x 16 bits', 'XMP alone', 'jpeg 1<'):
    content, _ = FILES[name]
    assert _image_files.from_bytes(content, 'x', None).encoded == content


def test_gray_of_16_bits_keeps_its_mean():
  values = np.full((4, 4, 1), 140 * 256 + 7, np.uint16)
  example = _image_files.from_bytes(image_battery.png16(values), 'x', None)
  assert tf.reduce_mean(tf.cast(tf.io.decode_png(example.encoded), tf.float32)) == 140


def test_corrupted_exif_data_say_the_same_to_both_readers(decoders):
  generator = np.random.default_rng(0)
  for name in ('jpeg 6<', 'jpeg 8>', 'png 6<', 'png 8>'):
    for _ in range(40):
      content = bytearray(FILES[name][0])
      place = content.index(b'Exif' if name.startswith('jpeg') else b'eXIf')
      for _ in range(generator.integers(1, 4)):
        content[place + generator.integers(4, 34)] = generator.integers(0, 256)
      try:
        expected = _image_files.from_bytes(bytes(content), 'x', None)
      except UserError:  # A PNG's checksum.
        continue
      assert decoders['decoded'](bytes(content)).shape[:2] == (expected.height, expected.width)


# --- Labels -----------------------------------------------------------------------------------


def test_sizes_are_compared_after_turning(tmp_path):
  content, pixels = FILES['jpeg 6<']
  path = tmp_path / 'x.jpg'
  path.write_bytes(content)
  label = np.full(pixels.shape[:2], INFO.void_label, np.int32)
  assert _image_files.example(str(path), label).height == 20
  loaded = _labeled_files.direct([_labeled_files.LabeledFile('x', str(path), lambda: label)], INFO,
                                 with_label=True).load(tf.constant(0))
  assert loaded.image.shape == (20, 12, 3)


def test_a_label_of_the_stored_image_is_explained_by_exif(tmp_path):
  content, pixels = FILES['jpeg 6<']
  path = tmp_path / 'x.jpg'
  path.write_bytes(content)
  label = np.full(pixels.shape[1::-1], INFO.void_label, np.int32)
  reason = 'EXIF orientation 6.*label fits the image as it is stored'
  with pytest.raises(UserError, match=f'is 20x12, but its panoptic PNG is 12x20.*{reason}'):
    _image_files.example(str(path), label)
  file = _labeled_files.LabeledFile('x', str(path), lambda: label)
  with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
    _labeled_files.direct([file], INFO, with_label=True).load(tf.constant(0))


# --- Files that cannot be opened --------------------------------------------------------------


def test_a_file_that_cannot_be_opened_is_not_called_corrupt(tmp_path, monkeypatch):
  with pytest.raises(MissingFileError, match='gone.png: No such file'):
    rgb_images.read(str(tmp_path / 'gone.png'))

  def refuse(*args, **kwargs):
    raise PermissionError(13, 'Permission denied', 'x.png')

  monkeypatch.setattr('builtins.open', refuse)
  for read in (rgb_images.read, lambda path: _image_files.example(path, None)):
    with pytest.raises(HostError, match='^x.png: cannot be opened: Permission denied$'):
      read('x.png')


def test_an_opened_file_is_read_as_its_path(tmp_path):
  path = tmp_path / 'a.png'
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3)).save(path, exif=exif)
  with open(path, 'rb') as file:
    np.testing.assert_array_equal(rgb_images.read(file), rgb_images.read(path))
  assert rgb_images.read(io.BytesIO(path.read_bytes())).shape == (4, 3, 3)
