"""The answers of a served model to invalid requests."""

import numpy as np
import pytest
import tensorflow as tf
import tiny

import deeplab_tf
from deeplab_tf.data import catalog
from deeplab_tf.export import saved_model, serving_module


@pytest.fixture(scope='module')
def signatures(tmp_path_factory):
  folder = tmp_path_factory.mktemp('export')
  config = deeplab_tf.load_config(tiny.write_config(folder))
  info = catalog.from_config(config)
  module = serving_module.build(config, info, serving_module.build_network(config, info))
  saved_model.export_saved_model(module, config, info, folder / 'saved_model')
  loaded = tf.saved_model.load(str(folder / 'saved_model'))
  yield loaded.signatures
  del loaded


def _png(height, width):
  image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
  return tf.io.encode_png(image).numpy()


@pytest.mark.parametrize('shape,wanted', [
    ((50, 60, 3), 'images has shape [50, 60, 3] and needs to be uint8 [batch, height, width, 3], '
     'RGB, at least one image of at least one pixel: put a single image into a batch of one'),
    ((0, 50, 60, 3), 'images has shape [0, 50, 60, 3] and needs to be'),
    ((1, 0, 60, 3), 'images has shape [1, 0, 60, 3] and needs to be'),
    ((2, 50, 0, 3), 'images has shape [2, 50, 0, 3] and needs to be'),
    ((1, 50, 60, 4), 'images has shape [1, 50, 60, 4] and needs to be'),
    ((1, 50, 60, 1), 'images has shape [1, 50, 60, 1] and needs to be'),
    ((1, 1, 50, 60, 3), 'images has shape [1, 1, 50, 60, 3] and needs to be'),
    ((), 'images has shape [] and needs to be'),
])
def test_images_of_a_wrong_shape(shape, wanted, signatures):
  with pytest.raises(tf.errors.InvalidArgumentError) as error:
    signatures['serving_default'](images=tf.zeros(shape, tf.uint8))
  assert wanted in str(error.value)


@pytest.mark.parametrize('files,wanted', [
    ([(40, 50), (40, 50), (50, 40)], 'encoded_images holds images of 40x50 and of 50x40 pixels '
     '(height x width): the images of a batch must have one size'),
    ([(40, 50), (41, 50)], 'images of 40x50 and of 41x50 pixels'),
    ([], 'encoded_images has shape [0] and needs to be string [batch], at least one file'),
])
def test_files_that_are_no_batch(files, wanted, signatures):
  encoded = tf.constant([_png(*size) for size in files], tf.string)
  with pytest.raises(tf.errors.InvalidArgumentError) as error:
    signatures['serve_encoded'](encoded_images=encoded)
  assert wanted in str(error.value)


def test_a_file_without_a_batch(signatures):
  with pytest.raises(tf.errors.InvalidArgumentError, match='put a single file into a batch of one'):
    signatures['serve_encoded'](encoded_images=tf.constant(_png(40, 50)))


@pytest.mark.parametrize('count', [1, 3])
def test_files_of_one_size_are_answered_in_their_order(count, signatures):
  files = [_png(40, 50)] + [tf.io.encode_png(np.full([40, 50, 3], 60 * i, np.uint8)).numpy()
                            for i in range(1, count)]
  images = tf.stack([tf.io.decode_png(file) for file in files])
  expected = signatures['serving_default'](images=images)
  found = signatures['serve_encoded'](encoded_images=tf.constant(files))
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_signatures_state_their_shapes(signatures):
  (images,) = signatures['serving_default'].structured_input_signature[1].values()
  assert images.shape.as_list() == [None, None, None, 3] and images.dtype == tf.uint8
  (encoded,) = signatures['serve_encoded'].structured_input_signature[1].values()
  assert encoded.shape.as_list() == [None] and encoded.dtype == tf.string
