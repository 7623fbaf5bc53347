"""Sizes of evaluation images: the shorter side, padding to multiples, batches of several sizes."""

import contextlib
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image

from deeplab_tf import config as config_lib
from deeplab_tf import models
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.data.image_normalization import IMAGENET, SYMMETRIC
from deeplab_tf.export import saved_model, serving_module
from deeplab_tf.metrics.panoptic_quality import PanopticQuality
from deeplab_tf.models import max_deeplab
from deeplab_tf.postprocessing.resize_back import to_raw_size
from deeplab_tf.segmenter import Segmenter
from deeplab_tf.structures import PanopticPrediction
from deeplab_tf.training import evaluators
from deeplab_tf.training.replicated_prediction import ReplicatedPrediction

# Images of 20x30 and 16x24.
SHORTER_SIDE = 'resize_rule: SHORTER_SIDE min_resize_value: 25 max_resize_value: 37 '


def _config(experiment, folder, sizes, batch_size=1):
  text = folder.options().replace('crop_size: [21, 33]', sizes)
  config = experiment('', text.replace('batch_size: 2', f'batch_size: {batch_size}'))
  config.model_options.image_normalization = config.model_options.IMAGENET
  return config


def _batches(config):
  return list(pipeline.eval_dataset(config, catalog.from_config(config)))


def _file(folder, number):
  return np.asarray(Image.open(folder.image_dir / f'photo{number}.png'))


def test_the_shorter_side_is_resized_as_pillow_does_and_padded_to_a_multiple(
    experiment, panoptic_folder):
  batches = _batches(_config(experiment, panoptic_folder, SHORTER_SIDE + 'size_divisor: 16'))
  # 20x30: times 25 / 20 it would be 37.5 wide, so less; likewise 16x24.
  for number, batch in enumerate(batches):
    assert batch.images.shape == (1, 32, 48, 3)
    np.testing.assert_array_equal(batch.resized_size, [[25, 37]])
    pixels = Image.fromarray(_file(panoptic_folder, number)).resize((37, 25), Image.BILINEAR)
    np.testing.assert_allclose(batch.images[0, :25, :37], IMAGENET.apply(np.asarray(pixels)),
                               atol=1e-6)
    assert not batch.images[0, 25:].numpy().any() and not batch.images[0, :, 37:].numpy().any()
  # Labels keep the size of the files.
  assert [batch.label.shape for batch in batches] == [(1, 20, 30), (1, 16, 24)]
  np.testing.assert_array_equal([batch.raw_size[0] for batch in batches], [[20, 30], [16, 24]])


def test_a_batch_is_padded_to_its_largest_image(experiment, panoptic_folder):
  alone = _batches(_config(experiment, panoptic_folder, 'size_divisor: 8'))
  assert [batch.images.shape for batch in alone] == [(1, 24, 32, 3), (1, 16, 24, 3)]
  (both,) = _batches(_config(experiment, panoptic_folder, 'size_divisor: 8', batch_size=2))
  assert both.images.shape == (2, 24, 32, 3)
  np.testing.assert_array_equal(both.resized_size, [[20, 30], [16, 24]])
  np.testing.assert_array_equal(both.images[0], alone[0].images[0])
  np.testing.assert_array_equal(both.images[1, :16, :24], alone[1].images[0])
  assert not both.images[1, 16:].numpy().any() and not both.images[1, :, 24:].numpy().any()


def test_without_padding_a_batch_has_the_size_of_its_largest_image(experiment, panoptic_folder):
  config = _config(experiment, panoptic_folder, SHORTER_SIDE + 'size_divisor: 1')
  assert [batch.images.shape for batch in _batches(config)] == [(1, 25, 37, 3)] * 2
  (both,) = _batches(_config(experiment, panoptic_folder, 'size_divisor: 1', batch_size=2))
  assert both.images.shape == (2, 20, 30, 3)
  np.testing.assert_array_equal(both.resized_size, [[20, 30], [16, 24]])


def test_without_padding_and_resizing_images_come_as_they_are(experiment, panoptic_folder):
  for number, batch in enumerate(_batches(_config(experiment, panoptic_folder, 'size_divisor: 1'))):
    np.testing.assert_allclose(batch.images[0],
                               IMAGENET.apply(_file(panoptic_folder, number)), atol=1e-6)


def test_deeplab2s_sizes_are_padded_to_multiples_too(experiment, panoptic_folder):
  sizes = 'min_resize_value: 30 max_resize_value: 40 size_divisor: 32'
  for batch in _batches(_config(experiment, panoptic_folder, sizes)):
    np.testing.assert_array_equal(batch.resized_size, [[26, 40]])
    assert batch.images.shape == (1, 32, 64, 3)


@pytest.mark.parametrize('crop_size, expected', [([40, 40], (25, 37)), ([20, 64], (20, 30)),
                                                 ([64, 21], (14, 21))])
def test_with_a_crop_size_shapes_are_static_and_an_image_is_made_to_fit(
    experiment, panoptic_folder, crop_size, expected):
  config = _config(experiment, panoptic_folder, SHORTER_SIDE + f'crop_size: {crop_size}', 2)
  dataset = pipeline.eval_dataset(config, catalog.from_config(config))
  assert dataset.element_spec.images.shape.as_list() == [None, *crop_size, 3]
  (batch,) = dataset
  np.testing.assert_array_equal(batch.resized_size, [expected] * 2)


def test_corrupt_images_are_left_out_at_any_size(experiment, panoptic_folder):
  (panoptic_folder.image_dir / 'photo0.png').write_bytes(b'no image')
  config = _config(experiment, panoptic_folder, SHORTER_SIDE + 'size_divisor: 16', 2)
  config.eval_dataset_options.max_damaged_images = 1
  (batch,) = _batches(config)
  assert batch.name.numpy().tolist() == [b'photo1'] and batch.images.shape == (1, 32, 48, 3)


def test_without_any_size_the_error_names_both_fields(experiment, panoptic_folder):
  with pytest.raises(config_lib.ConfigError, match='crop_size is not set.*set size_divisor'):
    _batches(_config(experiment, panoptic_folder, ''))


@pytest.mark.parametrize('sizes', [
    'crop_size: [21, 33]', 'crop_size: [17, 19]', 'crop_size: [64, 64] min_resize_value: 40',
    'size_divisor: 1', 'size_divisor: 32', 'size_divisor: 8 max_resize_value: 19',
    SHORTER_SIDE + 'size_divisor: 32', SHORTER_SIDE + 'size_divisor: 1',
    SHORTER_SIDE + 'crop_size: [40, 40]',
    'resize_rule: SHORTER_SIDE min_resize_value: 13 size_divisor: 4'])
def test_an_exported_model_sees_what_an_evaluation_sees(experiment, panoptic_folder, sizes):
  config = _config(experiment, panoptic_folder, sizes)
  module = serving_module.ServingModule(None, [], None, pipeline.evaluation_augmentation(config))
  for number, batch in enumerate(_batches(config)):
    images, size = tf.function(module.prepare)(_file(panoptic_folder, number)[None])
    np.testing.assert_array_equal(size, batch.resized_size[0])
    np.testing.assert_array_equal(images, batch.images)


@pytest.mark.parametrize('sizes', [pytest.param('size_divisor: 16', marks=pytest.mark.slow),
                                   SHORTER_SIDE + 'size_divisor: 16'])
def test_an_exported_model_predicts_what_an_evaluation_predicts(tmp_path, panoptic_folder, sizes):
  data = panoptic_folder.options().replace('crop_size: [21, 33] batch_size: 2',
                                           f'{sizes} batch_size: 1')
  config = config_lib.load_config(tiny.write_config(tmp_path), [
      'clear: "train_dataset_options" clear: "eval_dataset_options"',
      f'eval_dataset_options {{ {data} }}',
      'model_options { image_normalization: IMAGENET }'])
  info = catalog.from_config(config)
  keras.utils.set_random_seed(1)
  model = serving_module.build_network(config, info)
  module = serving_module.build(config, info, model)
  saved_model.export_saved_model(module, config, info, tmp_path / 'exported')
  segmenter = Segmenter.from_saved_model(tmp_path / 'exported')
  predict = ReplicatedPrediction(
      tf.distribute.get_strategy(), models.inference_network(config, model),
      models.architecture(config).build_postprocessor(config, info), 1, any_size=True)
  rule = 'half_pixel' if 'SHORTER_SIDE' in sizes else 'aligned'
  for number, batch in enumerate(_batches(config)):
    image = _file(panoptic_folder, number)
    evaluated = to_raw_size(predict(batch.images), batch.resized_size[0], batch.raw_size[0], rule)
    served = segmenter(image).panoptic_map
    assert served.shape == image.shape[:2] and len(np.unique(served)) > 1
    np.testing.assert_array_equal(served, evaluated.panoptic_map[0])
  assert predict._step.experimental_get_tracing_count() == 1


def _positions(source, target, rule):
  """The nearest position in the source of each position in the target."""
  index = np.arange(target)
  if rule == 'half_pixel':
    return ((2 * index + 1) * source // (2 * target)).astype(int)
  return np.floor(index * np.float32((source - 1) / (target - 1)) + np.float32(0.5)).astype(int)


@pytest.mark.parametrize('sizes, rule', [
    (SHORTER_SIDE + 'size_divisor: 16', 'half_pixel'),
    ('min_resize_value: 25 max_resize_value: 37 size_divisor: 16', 'aligned')])
def test_maps_are_resized_back_by_the_rule_of_the_images(experiment, panoptic_folder, sizes, rule):
  config = _config(experiment, panoptic_folder, sizes)
  info, batches = catalog.from_config(config), _batches(config)
  rng = np.random.default_rng(0)
  maps = [rng.choice(np.unique(batch.label), [1, *batch.images.shape[1:3]]).astype(np.int32)
          for batch in batches]
  unused = iter(maps)

  def predict(images):
    del images
    value = tf.constant(next(unused))
    none = tf.fill([1, 1], -1)
    return PanopticPrediction(value, value, value, none, none, tf.fill([1, 1], -1.0))

  progress = types.SimpleNamespace(update=lambda step: None)
  evaluator = evaluators.build(
      config, max_deeplab.ARCHITECTURE, info,
      evaluators.Surroundings(None, '', tf.Variable(0), False),
      strategy=tf.distribute.get_strategy(), predict=predict, batches=lambda: batches,
      progress=lambda steps: contextlib.nullcontext(progress))
  evaluator.evaluate(-1)
  expected = PanopticQuality(info.categories)
  for batch, value in zip(batches, maps):
    (rows, columns), (height, width) = batch.resized_size[0].numpy(), batch.raw_size[0].numpy()
    assert (rows, columns) != (height, width)
    restored = value[0][_positions(rows, height, rule)][:, _positions(columns, width, rule)]
    expected.update_from_label_maps(batch.label[0].numpy(), restored, info)
  assert evaluator.result['per_class'] == expected.result()['per_class']


def test_two_replicas_take_images_of_any_size():
  # A process of its own: logical devices are set before TensorFlow starts.
  done = subprocess.run([sys.executable, '-c', REPLICAS], capture_output=True, text=True,
                        check=False)
  assert done.returncode == 0, done.stderr[-2000:]


REPLICAS = textwrap.dedent("""
    import numpy as np
    import tensorflow as tf
    from deeplab_tf.training.replicated_prediction import ReplicatedPrediction
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(['/cpu:0', '/cpu:1'])
    predict = ReplicatedPrediction(strategy, lambda x: 2 * x,
                                   lambda x, size: x + tf.cast(size[0], tf.float32), 3,
                                   any_size=True)
    for height, width in ((8, 6), (5, 9), (5, 9), (4, 4), (7, 3), (1, 20)):
      images = tf.random.uniform([3, height, width, 3])
      np.testing.assert_allclose(predict(images), 2 * images + height)
    assert predict._step.experimental_get_tracing_count() <= 2
""")


def test_deeplab2s_sizes_are_the_default(experiment, panoptic_folder):
  config = experiment('', panoptic_folder.options())
  augmentation = pipeline.evaluation_augmentation(config)
  assert augmentation.normalization is SYMMETRIC and not augmentation.shorter_sides
  assert augmentation.size_divisor == 1 and augmentation.crop_size == (21, 33)
  assert augmentation.resize_rule == 'aligned'


# --- Configs ----------------------------------------------------------------------------------


MODEL = 'model_options { max_deeplab {} } '


@pytest.mark.parametrize('text, message', [
    ('eval_dataset_options { crop_size: [65, 65] size_divisor: 32 }',
     'eval_dataset_options has crop_size and size_divisor'),
    ('eval_dataset_options { size_divisor: -1 }', 'eval_dataset_options.size_divisor is -1'),
    ('eval_dataset_options { resize_rule: SHORTER_SIDE }', 'has min_resize_value \\[\\] and'),
    ('eval_dataset_options { resize_rule: SHORTER_SIDE min_resize_value: [8, 9] }',
     'has min_resize_value \\[8, 9\\].*one length of the shorter side'),
    ('eval_dataset_options { resize_rule: SHORTER_SIDE min_resize_value: 8 max_resize_value: -3 }',
     'max_resize_value \\[-3\\]'),
    ('eval_dataset_options { resize_rule: SHORTER_SIDE min_resize_value: 8 resize_factor: 4 }',
     'resize_factor is for resize_rule DEEPLAB2'),
    ('train_dataset_options { size_divisor: 32 }',
     'train_dataset_options.size_divisor is for evaluation'),
    ('train_dataset_options { resize_rule: SHORTER_SIDE min_resize_value: 8 }',
     'train_dataset_options.resize_rule is for evaluation.*random_shorter_side'),
])
def test_contradictions_are_one_line(tmp_path, text, message):
  path = tmp_path / 'a.textproto'
  path.write_text(MODEL + text)
  with pytest.raises(config_lib.ConfigError, match=message) as error:
    config_lib.load_config(path)
  assert '\n' not in str(error.value)


def test_sizes_of_the_rules_load(tmp_path):
  path = tmp_path / 'a.textproto'
  for sizes in ('min_resize_value: 800 max_resize_value: 1333 size_divisor: 32',
                'min_resize_value: 800 size_divisor: 1',
                'min_resize_value: 1024 max_resize_value: 2048 crop_size: [1024, 2048]'):
    path.write_text(MODEL + f'eval_dataset_options {{ resize_rule: SHORTER_SIDE {sizes} }}')
    assert config_lib.load_config(path)
