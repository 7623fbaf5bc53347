"""Training batches with each augmentation are the same after a restart and with several workers."""

import numpy as np
import pytest
import tensorflow as tf
from training_batches import assert_equal, batches

from deeplab_tf import config as config_lib
from deeplab_tf.benchmark import input_pipeline
from deeplab_tf.classes import ImageClasses
from deeplab_tf.data import build, catalog, pipeline, sources
from deeplab_tf.data.sources import shapes as shapes_source

INFO = catalog.built_in('shapes')
SHAPES = 'dataset: "shapes" crop_size: [97, 129] max_thing_id: 32 '
PASTE = ('panoptic_copy_paste { panoptic_copy_paste_scale: 0.7 '
         'panoptic_copy_paste_thing_option: "all" }')
RECIPES = {
    'jitter': 'large_scale_jitter {} color_jitter {}',
    'shorter_side': 'random_shorter_side { sides: [60, 100, 180] max_longer_side: 200 } '
                    'max_category_share: 0.75 color_jitter {}',
    'crop_first': 'random_shorter_side { sides: [60, 80] max_longer_side: 129 crop_first { '
                  'sides: [50, 90] min_crop_side: 40 max_crop_side: 60 } }',
    'paste': f'min_scale_factor: 0.5 max_scale_factor: 1.5 {PASTE} '
             'autoaugment_policy_name: "simple_classification_policy"',
    'jitter_and_paste': f'large_scale_jitter {{}} {PASTE}',
}


# What two have, the others have as well.
SLOW = ('jitter', 'paste', 'crop_first')


@pytest.fixture(name='text', params=[
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in RECIPES])
def fixture_text(request):
  return (SHAPES + 'batch_size: 4 shapes { num_images: 7 } '
          f'augmentations {{ {RECIPES[request.param]} }}')


def test_batches_resume_and_are_shared_among_workers(text, experiment):
  config = experiment(text)
  whole = batches(config, 5)
  assert_equal(batches(config, 2, start_step=3), whole[3:])
  parts = [batches(config, 4, start_step=1, input_context=tf.distribute.InputContext(2, worker, 4))
           for worker in range(2)]
  for step, batch in enumerate(whole[1:3]):
    of_step = [b for part in parts for b in part[2 * step:2 * step + 2]]
    assert_equal(tf.nest.map_structure(lambda *x: np.concatenate(x), *of_step), batch)


@pytest.mark.parametrize('kind', ['mask', 'center'])
def test_batches_have_static_shapes_and_normalized_images(text, experiment, kind):
  dataset = pipeline.train_dataset(experiment(text), INFO, kind, 1)
  for spec in tf.nest.flatten(dataset.element_spec):
    assert spec.shape.is_fully_defined() and spec.shape[0] == 4
  for images, targets in dataset.take(2):
    assert images.shape == (4, 97, 129, 3) and np.min(images) >= -1 and np.max(images) <= 1
    assert set(np.unique(targets.semantic_map)) <= {*INFO.class_ids, INFO.ignore_label}


@pytest.mark.parametrize('kind', ['mask', 'center'])
def test_segments_come_from_the_next_image_of_the_stream(experiment, kind):
  # Crops of the drawings' own size: nothing else changes, and all of an image is pasted.
  text = ('dataset: "shapes" crop_size: [128, 160] batch_size: 1 shapes { num_images: 7 } '
          'augmentations { random_flip: false ')
  everything = ' '.join(f'panoptic_copy_paste_{name}_option: "all"'
                        for name in ('thing', 'stuff', 'void'))
  plain = batches(experiment(text + '}'), 9, kind)
  pasted = batches(experiment(
      text + f'panoptic_copy_paste {{ panoptic_copy_paste_scale: 1 {everything} }} }}'), 8, kind)
  for (image, targets), (next_image, next_targets) in zip(pasted, plain[1:]):
    np.testing.assert_array_equal(image, next_image)
    # Instances have other numbers, but the same places and classes.
    assert_equal([targets], [next_targets])


@pytest.mark.slow
def test_corrupt_images_are_replaced_in_both_roles(tmp_path, experiment, capsys):
  examples = shapes_source.examples(sources.BuildOptions(num_images=6))
  build.build(examples, str(tmp_path), 'train', 1)
  (file,) = tmp_path.glob('train-*')
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  config = experiment(SHAPES + f'batch_size: 2 shuffle_buffer_size: 3 max_damaged_images: 1 '
                      f'file_pattern: "{file}" augmentations {{ {RECIPES["paste"]} }}')
  whole = batches(config, 7)
  assert 'WARNING: left out: ' in capsys.readouterr().err
  assert_equal(batches(config, 3, start_step=4), whole[4:])
  assert all(np.all(np.isfinite(images)) for images, _ in whole)


# --- Configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize('text, message', [
    ('large_scale_jitter { min_scale: 0 }', 'has min_scale 0 and max_scale 2: 0 < min_scale'),
    ('large_scale_jitter { min_scale: 3 }', 'has min_scale 3 and max_scale 2'),
    ('random_shorter_side {}', 'random_shorter_side takes either sides, or min_side and max_side'),
    ('random_shorter_side { sides: 5 min_side: 3 }', 'takes either sides, or min_side'),
    ('random_shorter_side { min_side: 9 max_side: 3 }', 'lengths are [9, 3]; positive ones'),
    ('random_shorter_side { sides: [-5] }', 'lengths are [-5]; positive ones'),
    ('random_shorter_side { sides: 5 max_longer_side: -1 }', 'max_longer_side is -1'),
    ('random_shorter_side { sides: 5 crop_first { min_crop_side: 700 } }',
     'crop_first has min_crop_side 700 and max_crop_side 600: min_crop_side <='),
    ('random_shorter_side { sides: 5 } large_scale_jitter {}', 'are both set; remove one'),
    ('large_scale_jitter {} max_scale_factor: 2', 'leave the latter at 1'),
    ('large_scale_jitter {} max_category_share: 0.5', 'one crop per image; remove one'),
    ('max_category_share: 0', 'max_category_share is 0: a share in (0, 1]'),
    ('color_jitter { probability: 2 }', 'color_jitter.probability is 2: 0 to 1'),
    ('color_jitter { hue: 200 }', 'hue 200'),
    ('color_jitter { min_contrast: 2 }', 'has min_contrast 2 and max_contrast 1.5'),
    ('panoptic_copy_paste { panoptic_copy_paste_scale: -1 }', 'panoptic_copy_paste_scale is -1'),
    ('panoptic_copy_paste { panoptic_copy_paste_scale: 1 panoptic_copy_paste_void_option: "x" }',
     'panoptic_copy_paste_void_option is "x": allowed are none, random, all'),
])
def test_config_errors_are_one_line(experiment, text, message):
  with pytest.raises(config_lib.ConfigError) as error:
    pipeline.train_dataset(experiment(SHAPES + f'augmentations {{ {text} }}'), INFO, 'mask', 1)
  found = str(error.value)
  assert found.startswith('train_dataset_options.augmentations.')
  assert message in found and '\n' not in found


def test_a_recipe_of_its_own_sizes_takes_no_others(experiment):
  text = SHAPES + 'augmentations { large_scale_jitter {} } min_resize_value: '
  with pytest.raises(config_lib.ConfigError, match='set the latter to 0'):
    pipeline.train_dataset(experiment(text + '9'), INFO, 'mask', 1)
  assert pipeline.train_dataset(experiment(text + '0'), INFO, 'mask', 1)


def test_images_of_one_class_take_no_augmentation_of_masks(experiment):
  config = experiment('dataset: "imagenet" crop_size: [9, 9] augmentations { color_jitter {} }')
  with pytest.raises(config_lib.ConfigError, match='color_jitter is for images with masks'):
    pipeline.train_dataset(config, ImageClasses('imagenet', ('a',)), 'class', 1)


# --- Times ------------------------------------------------------------------------------------


def test_every_stage_is_measured(text, experiment):
  options = experiment(text).train_dataset_options
  seconds = input_pipeline.stage_seconds(options, INFO, 'mask', 3)
  stages = ['decode', 'resize', 'colors', 'crop', 'targets', 'normalize']
  if 'panoptic_copy_paste' in text:
    stages.insert(4, 'paste')
  assert list(seconds) == stages and min(seconds.values()) > 0


def test_without_augmentation_nothing_is_random(text, experiment):
  config = experiment(text)
  config.train_dataset_options.CopyFrom(input_pipeline.unaugmented(config.train_dataset_options))
  config.train_dataset_options.crop_size[:] = [200, 400]
  config.train_dataset_options.shapes.num_images = 1
  found = batches(config, 1)[0][0]
  # DeepLab2 still puts an image that is smaller than the crop anywhere in it.
  for image in found[1:]:
    np.testing.assert_array_equal(without_padding(image), without_padding(found[0]))


def without_padding(image):
  gray = np.all(np.isclose(image, 0) | np.isclose(image, 128 / 127.5 - 1), -1)
  rows, columns = (np.flatnonzero(~gray.all(axis)) for axis in (1, 0))
  return image[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def test_masks_that_a_crop_loses_are_kept_without_pixels_on_request(experiment):
  jittered = experiment(SHAPES + 'batch_size: 4 shapes { num_images: 7 } augmentations { '
                        'large_scale_jitter { min_scale: 1.5 max_scale: 2 } }')
  jittered.train_dataset_options.keep_empty_masks = True
  # The same images, as they are.
  plain = experiment(SHAPES.replace('[97, 129]', '[128, 160]') + 'batch_size: 4 '
                     'shapes { num_images: 7 } augmentations { random_flip: false }')
  lost = 0
  for (_, found), (_, whole) in zip(batches(jittered, 3), batches(plain, 3)):
    things = whole.mask_isthing
    np.testing.assert_array_equal(found.mask_classes[things], whole.mask_classes[things])
    for classes, ids, whole_ids in zip(found.mask_classes, found.mask_ids, whole.mask_ids):
      in_image = set(whole_ids[whole_ids >= 0])
      assert set(np.flatnonzero(classes >= 0)) == in_image
      assert set(ids[ids >= 0]) <= in_image
      lost += len(in_image - set(ids.flat))
  assert lost > 5
