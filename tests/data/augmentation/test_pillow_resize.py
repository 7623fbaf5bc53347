"""Resizing gives exactly Pillow's pixel values."""

import numpy as np
import pytest
import shared
import tensorflow as tf
from PIL import Image

from deeplab_tf.data.augmentation import pillow_resize


def _image(height, width, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _by_pillow(image, size):
  """Columns, then rows: in one step newer versions of Pillow choose the order themselves."""
  picture = Image.fromarray(image).resize((size[1], image.shape[0]), Image.BILINEAR)
  return np.asarray(picture.resize((size[1], size[0]), Image.BILINEAR))


RESIZE = tf.function(pillow_resize.resize, autograph=False, input_signature=[
    tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int32)])


# Up, down, one axis each way, far down, one axis alone, nothing, single pixels.
@pytest.mark.parametrize('before, after', [
    ((37, 53), (60, 86)), ((37, 53), (24, 34)), ((37, 53), (31, 80)), ((120, 90), (11, 7)),
    ((40, 30), (40, 51)), ((40, 30), (13, 30)), ((9, 9), (9, 9)), ((1, 1), (5, 3)),
    ((8, 6), (1, 1)), ((2, 300), (3, 299))])
def test_pixels_equal_pillow(before, after):
  image = _image(*before)
  found = RESIZE(image, after)
  assert found.dtype == tf.float32
  np.testing.assert_array_equal(found, _by_pillow(image, after))
  in_one_step = np.asarray(Image.fromarray(image).resize(after[::-1], Image.BILINEAR), np.float32)
  assert np.abs(found - in_one_step).max() <= 1


def test_pixels_equal_pillow_at_any_size():
  rng = np.random.default_rng(5)
  for number in range(40):
    before, after = (rng.integers(1, 90, 2).tolist() for _ in range(2))
    image = _image(*before, seed=number)
    np.testing.assert_array_equal(RESIZE(image, after), _by_pillow(image, after),
                                  err_msg=f'{before} {after}')


@pytest.mark.parity
def test_pixels_equal_mask2former():
  with np.load(shared.path('parity', 'mask2former', 'preprocess.npz')) as recorded:
    for name in ('24x34', '60x86', '37x80'):
      size = [int(n) for n in name.split('x')]
      np.testing.assert_array_equal(RESIZE(recorded['image'], size),
                                    recorded[f'image_pil_bilinear_{name}'])
