"""Images with one class each: crops, order, labels, and unreadable files."""

import io

import numpy as np
import pytest
import tensorflow as tf
import tiny_classification
from PIL import Image

from deeplab_tf import config as config_lib
from deeplab_tf import structures
from deeplab_tf.data import build, catalog, errors, pipeline
from deeplab_tf.data.augmentation import autoaugment, classification
from deeplab_tf.data.records import tfrecord

CROP = 'crop_size: [17, 21] batch_size: 3 shuffle_buffer_size: 4 '
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


@pytest.fixture(name='folder')
def fixture_folder(tmp_path):
  return tiny_classification.write_images(tmp_path / 'images', per_class=4)


def folders(folder, extra=''):
  return f'dataset: "image_folders" {CROP} image_folders {{ image_dir: "{folder}" }} {extra}'


def records(path, extra=''):
  return f'dataset: "imagenet" {CROP} file_pattern: "{path}" {extra}'


def write_records(path, labels, encoded=()):
  """Writes one record per label (None: without a label), with PNGs or other images."""
  with tf.io.TFRecordWriter(str(path)) as writer:
    for number, label in enumerate(labels):
      image = encoded[number] if encoded else encode('PNG')
      writer.write(tfrecord.serialize(tfrecord.SourceExample(name=f'image{number}', encoded=image,
                                                             format='png', height=20, width=30,
                                                             label=label)))
  return path


def encode(kind='PNG', mode='RGB'):
  stream = io.BytesIO()
  image = Image.fromarray(PIXELS).convert('L' if mode == 'I;16' else mode)
  if mode == 'I;16':
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
  image.save(stream, kind)
  return stream.getvalue()


def batches(config, count, **options):
  dataset = pipeline.train_dataset(config, catalog.from_config(config), 'class', 1, **options)
  return [tf.nest.map_structure(lambda x: x.numpy(), b) for b in dataset.take(count)]


def evaluated(config):
  return list(pipeline.eval_dataset(config, catalog.from_config(config)))


def data_error(function):
  with pytest.raises(tf.errors.OpError) as caught:
    function()
  line = errors.describe_data_error(caught.value)
  assert '\n' not in line
  return line


# --- Crops ------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(375, 500), (500, 100), (9, 300), (1, 1)])
def test_random_windows_lie_in_the_image_with_their_area_and_aspect(size):
  draw = tf.function(lambda i: classification.random_window(
      tf.constant(size), 0.25, tf.stack([tf.constant(7, tf.int64), i])))
  windows = np.array([draw(tf.constant(i, tf.int64)) for i in range(200)])
  top, left, height, width = windows.T
  assert (windows >= [0, 0, 1, 1]).all()
  assert (top + height <= size[0]).all() and (left + width <= size[1]).all()
  if size == (375, 500):
    share, aspect = height * width / (375 * 500), width / height
    assert 0.249 < share.min() < 0.35 and 0.85 < share.max() <= 1
    assert 0.74 < aspect.min() < 0.85 and 1.2 < aspect.max() < 1.35
    assert len(np.unique(left)) > 50
  if size == (9, 300):  # Hardly any draw fits: the largest part in the center.
    assert np.median(height) == 9 and np.median(width) == 12 and np.median(left) == 144


def test_training_crops_are_functions_of_the_seed():
  example = structures.LabeledImage(tf.constant(PIXELS), tf.constant(1), tf.constant(''))
  augmentation = classification.Augmentation((8, 8), policy=autoaugment.policy(
      'simple_classification_policy', 'train_dataset_options'))
  make = lambda i: classification.training_sample(  # noqa: E731
      example, augmentation, tf.constant([3, i], tf.int64))[0].numpy()
  np.testing.assert_array_equal(make(0), make(0))
  assert len({make(i).tobytes() for i in range(12)}) == 12


def test_the_whole_image_can_be_the_crop_and_half_of_them_are_mirrored():
  square = tf.constant(PIXELS[:20, :20])
  example = structures.LabeledImage(square, tf.constant(1), tf.constant(''))
  # An area of 1 fits a square only if it is one itself; else it is the center: all of it.
  augmentation = classification.Augmentation((20, 20), min_area=1.0)
  make = classification.training_sample
  made = [make(example, augmentation, tf.constant([0, i], tf.int64))[0].numpy()
          for i in range(40)]
  mirrored = [np.array_equal(image, PIXELS[:20, :20][:, ::-1]) for image in made]
  same = [np.array_equal(image, PIXELS[:20, :20]) for image in made]
  assert all(a or b for a, b in zip(mirrored, same)) and 10 < sum(mirrored) < 30


@pytest.mark.parametrize('size', [(512, 768), (768, 512), (128, 192), (512, 2000)])
def test_evaluation_crops_are_the_centre_of_the_image(size):
  rows, columns = np.meshgrid(np.linspace(0, 250, size[0]), np.linspace(0, 250, size[1]),
                              indexing='ij')
  image = np.stack([rows, columns, rows], -1).astype(np.uint8)
  crop = classification.prepare_for_evaluation(tf.constant(image),
                                               classification.Augmentation((224, 224)))
  assert crop.shape == (224, 224, 3)
  shorter = min(size)
  # 7/8 of the shorter side, and as many pixels of the longer one, about the middle.
  for axis, values in ((0, crop[:, 112, 0]), (1, crop[112, :, 1])):
    share = 0.875 * shorter / size[axis]
    assert float(values[-1] - values[0]) == pytest.approx(250 * share, abs=3)
    assert float(values[0] + values[-1]) / 2 == pytest.approx(125, abs=2)


# --- Order ------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', [
    pytest.param('folders', marks=pytest.mark.slow), 'records'])
def test_batches_are_functions_of_the_seed_and_a_resumed_run_goes_on(kind, folder, tmp_path,
                                                                     experiment):
  text = folders(folder)
  if kind == 'records':
    build.main(['--dataset=image_folders', f'--root={folder}', '--split=train',
                f'--output_dir={tmp_path}', '--num_shards=3'])
    text = records(tmp_path / 'train-*', 'imagenet { num_classes: 2 }')
  config = experiment(text)
  whole = batches(config, 8)
  images, targets = whole[0]
  assert images.shape == (3, 17, 21, 3) and images.dtype == np.float32
  assert -1 <= images.min() < -0.3 and 0.3 < images.max() <= 1
  # The class is the color: blue, red.
  for images, targets in whole:
    assert targets.class_index.dtype == np.int32
    np.testing.assert_array_equal(images[..., 0].mean((1, 2)) > 0, targets.class_index == 1)
  for start in (1, 5):
    for one, two in zip(batches(config, 3, start_step=start), whole[start:]):
      tf.nest.map_structure(np.testing.assert_array_equal, one, two)
  shares = [batches(config, 2, input_context=tf.distribute.InputContext(3, worker, 3))
            for worker in range(3)]
  for step in range(2):
    together = tf.nest.map_structure(lambda *x: np.concatenate(x), *(s[step] for s in shares))
    tf.nest.map_structure(np.testing.assert_array_equal, together, whole[step])


def test_evaluation_goes_once_through_the_files_by_class_and_name(folder, experiment):
  found = evaluated(experiment('', folders(folder)))
  assert [len(b.name) for b in found] == [3, 3, 2]
  names = [name.decode() for b in found for name in b.name.numpy()]
  assert names == [f'{color}{i}' for color in ('blue', 'red') for i in range(4)]
  assert np.concatenate([b.class_index for b in found]).tolist() == [0] * 4 + [1] * 4


# --- Files and labels -------------------------------------------------------------------------


def test_grey_and_other_kinds_of_images_are_read_as_rgb(tmp_path, experiment):
  encoded = [encode('PNG', mode) for mode in ('L', 'I;16', 'RGB', 'P', 'RGBA')]
  encoded += [encode('JPEG', mode) for mode in ('L', 'CMYK')]
  path = write_records(tmp_path / 'a', [1] * 7, encoded)
  found = np.concatenate([b.images for b in evaluated(experiment('', records(path)))])
  assert found.shape == (7, 17, 21, 3)
  for image in found[[0, 1, 5]]:  # Gray.
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    np.testing.assert_allclose(image, found[0], atol=0.25)
  for image in found[[2, 3, 4, 6]]:
    assert np.abs(image - found[2]).mean() < 0.2


@pytest.mark.parametrize('offset, labels', [(1, [1, 1000]), (0, [0, 999])])
def test_labels_count_from_the_offset(offset, labels, tmp_path, experiment):
  path = write_records(tmp_path / 'a', labels)
  (batch,) = evaluated(experiment('', records(path, f'imagenet {{ label_offset: {offset} }}')))
  assert batch.class_index.numpy().tolist() == [0, 999]


@pytest.mark.parametrize('labels, message', [
    ([3, 0], 'image1: the label is 0; 1000 classes with labels 1 to 1000 are expected '),
    ([1001], 'image0: the label is 1001; 1000 classes'),
    ([None], 'image0: the record has 0 labels (feature image/class/label); one is expected'),
])
def test_wrong_labels_are_one_line_with_the_file(labels, message, tmp_path, experiment):
  path = write_records(tmp_path / 'a', labels)
  line = data_error(lambda: evaluated(experiment('', records(path))))
  assert line.startswith(f'{path}: ') and message in line


@pytest.mark.parametrize('content, message', [
    (b'no image', 'the image is neither JPEG nor PNG, or it is corrupt'),
    (encode('JPEG')[:200], 'the image is truncated or corrupt'),
    (encode('PNG')[:-700], 'the image is truncated or corrupt'),
])
def test_a_file_that_cannot_be_read_is_named(content, message, folder, experiment):
  path = folder / 'blue' / 'blue1.png'
  path.write_bytes(content)
  line = data_error(lambda: evaluated(experiment('', folders(folder))))
  assert line == f'{path}: {message}'


@pytest.mark.slow
def test_corrupt_files_are_left_out_where_that_is_allowed(folder, experiment, capfd):
  path = folder / 'blue' / 'blue1.png'
  path.write_bytes(encode('PNG')[:-700])
  config = experiment(*[folders(folder, 'max_damaged_images: 1')] * 2)
  assert sum(len(b.name) for b in evaluated(config)) == 7
  assert len(batches(config, 5)) == 5
  assert f'{path}: the image is truncated or corrupt' in capfd.readouterr().err


def test_a_corrupt_image_in_records_is_named(tmp_path, experiment):
  path = write_records(tmp_path / 'a', [1], [encode('JPEG')[:300]])
  line = data_error(lambda: evaluated(experiment('', records(path))))
  assert line == f'{path}: image0: the image is truncated or corrupt'


@pytest.mark.parametrize('text, message', [
    ('image_folders { image_dir: "%/none" }', '%/none: no such folder (image_folders.image_dir)'),
    ('', 'image_folders.image_dir is not set'),
    ('image_folders { image_dir: "%" } file_pattern: "x-*"', 'file_pattern is set too: clear it'),
    ('image_folders { image_dir: "${TRAIN}" }', 'image_dir is the placeholder "${TRAIN}"'),
    ('image_folders { image_dir: "%/blue" }', '%/blue: has 0 sub-folders; at least two'),
    ('image_folders { image_dir: "%" } crop_size: []', 'crop_size is not set'),
    ('image_folders { image_dir: "%" } augmentations { autoaugment_policy_name: "x" }',
     'autoaugment_policy_name is "x"'),
])
def test_wrong_descriptions_of_folders_are_one_line(text, message, folder, experiment):
  crop = '' if 'crop_size' in text else CROP
  text = text.replace('crop_size: []', '').replace('%', str(folder))
  with pytest.raises(config_lib.ConfigError) as caught:
    batches(experiment(f'dataset: "image_folders" {crop} {text}'), 1)
  assert message.replace('%', str(folder)) in str(caught.value)


def test_a_class_without_images_is_named(folder, experiment):
  (folder / 'green').mkdir()
  with pytest.raises(ValueError, match='green: holds no JPEG or PNG images'):
    batches(experiment(folders(folder)), 1)


def test_training_and_evaluation_must_have_the_same_classes(folder, tmp_path, experiment):
  other = tiny_classification.write_images(tmp_path / 'other', per_class=1)
  (other / 'blue').rename(other / 'green')
  config = experiment(folders(folder), folders(other))
  with pytest.raises(config_lib.ConfigError, match=r"2 and 2 classes, of which \['blue'\] are only "
                     r"in the first and \['green'\] only in the second"):
    catalog.from_config(config)
  config = experiment(folders(folder), 'dataset: "imagenet"')
  with pytest.raises(config_lib.ConfigError, match='different classes: .*2 and 1000 classes|name'):
    catalog.from_config(config)
