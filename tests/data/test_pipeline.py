"""The input pipeline: order, resuming, sharing among workers, evaluation, speed of skipping."""

import time

import numpy as np
import pytest
import shared
import tensorflow as tf
from training_batches import assert_equal, batches

from deeplab_tf import config as config_lib
from deeplab_tf.data import build, catalog, pipeline, readers, sources
from deeplab_tf.data.image_normalization import SYMMETRIC
from deeplab_tf.data.sources import _shape_scenes
from deeplab_tf.data.sources import shapes as shapes_source

COUNT = 13
SHAPES = 'dataset: "shapes" crop_size: [129, 161] max_thing_id: 16 '
AUGMENTED = ('augmentations { min_scale_factor: 0.5 max_scale_factor: 1.5 '
             'scale_factor_step_size: 0.1 } ')
AUTOAUGMENTED = AUGMENTED.replace(
    '}', 'autoaugment_policy_name: "simple_classification_policy" }')
INFO = catalog.built_in('shapes')


@pytest.fixture(name='records', scope='module')
def fixture_records(tmp_path_factory):
  folder = tmp_path_factory.mktemp('records')
  examples = shapes_source.examples(sources.BuildOptions(num_images=COUNT))
  build.build(examples, str(folder), 'train', 4)
  (folder / 'train-00009-of-00009.tfrecord').touch()  # An empty shard is legal.
  return f'file_pattern: "{folder}/train-*" '


@pytest.fixture(name='both', params=['records', 'drawn'])
def fixture_both(request, records):
  text = records if request.param == 'records' else f'shapes {{ num_images: {COUNT} }} '
  return SHAPES + 'batch_size: 2 shuffle_buffer_size: 5 ' + text


def orders(source, seed, epochs, buffer_size=5):
  """The labels' first rows as names of the samples, epoch by epoch."""
  result = []
  for epoch in range(epochs):
    payloads = source.shuffled(seed, tf.constant(epoch, tf.int64), buffer_size)
    result.append([source.load(*p).name.numpy() for p in payloads])
  return result


# --- Training ---------------------------------------------------------------------------------


def test_same_seed_same_batches_whatever_the_global_seed(both, experiment):
  config = experiment(both + AUTOAUGMENTED)
  tf.random.set_seed(0)
  first = batches(config, 9)
  tf.random.set_seed(77)
  expected = tf.random.uniform([]).numpy()
  tf.random.set_seed(77)
  assert_equal(batches(config, 9), first)
  assert tf.random.uniform([]).numpy() == expected
  other = batches(config, 9, seed=2)
  assert not np.array_equal(other[0][0], first[0][0])


def test_a_resumed_run_goes_on_with_the_same_sample(both, experiment):
  config = experiment(both + AUGMENTED)
  whole = batches(config, 20)
  for start in (1, 6, 13, 17):
    assert_equal(batches(config, 3, start_step=start), whole[start:start + 3])


def test_an_epoch_holds_every_image_once_and_each_has_its_own_order(both, experiment):
  options = experiment(both).train_dataset_options
  source = readers.open_source(options, INFO, 'train_dataset_options')
  found = orders(source, 1, 3)
  expected = sorted(f'shapes_train_0_{i:06d}'.encode() for i in range(COUNT))
  assert [sorted(order) for order in found] == [expected] * 3
  assert len({tuple(order) for order in found}) == 3
  assert found[0] != expected
  assert found[1] != orders(source, 2, 2)[1]


@pytest.mark.parametrize('workers, replicas, start', [(2, 4, 0), (2, 4, 2), (1, 2, 1)])
def test_the_batches_of_all_replicas_in_order_are_the_global_batch(
    both, experiment, workers, replicas, start):
  config = experiment(both.replace('batch_size: 2', 'batch_size: 8') + AUGMENTED)
  steps, each = 3, replicas // workers
  whole = batches(config, steps, start_step=start)
  parts = [batches(config, steps * each, start_step=start,
                   input_context=tf.distribute.InputContext(workers, worker, replicas))
           for worker in range(workers)]
  for step, batch in enumerate(whole):
    of_step = [b for part in parts for b in part[step * each:(step + 1) * each]]
    assert len(of_step) == replicas
    assert_equal(tf.nest.map_structure(lambda *x: np.concatenate(x), *of_step), batch)


@pytest.mark.parametrize('kind', ['mask', 'center'])
def test_batches_have_static_shapes_and_normalized_images(both, experiment, kind):
  dataset = pipeline.train_dataset(experiment(both + AUGMENTED), INFO, kind, 1)
  for spec in tf.nest.flatten(dataset.element_spec):
    assert spec.shape.is_fully_defined() and spec.shape[0] == 2
  for images, _ in dataset.take(3):
    assert images.shape == (2, 129, 161, 3) and images.dtype == tf.float32
    assert -1 <= np.min(images) < -0.3 and 0.3 < np.max(images) <= 1


def test_records_and_drawings_give_the_same_samples(records, experiment):
  crop = SHAPES + 'batch_size: 1 augmentations { random_flip: false } '
  by_label = []
  for text in (records, f'shapes {{ num_images: {COUNT} }}'):
    found = batches(experiment(crop + text), COUNT)
    by_label.append({b[1].semantic_map.tobytes(): b for b in found})
  # The crop of 129x161 leaves a margin of one pixel, always at the same side.
  assert set(by_label[0]) == set(by_label[1])
  for key, batch in by_label[0].items():
    assert_equal([batch], [by_label[1][key]])


def test_without_augmentation_the_image_comes_through(experiment):
  config = experiment('dataset: "shapes" crop_size: [128, 160] batch_size: 1 max_thing_id: 10 '
                      'augmentations { random_flip: false } shapes { num_images: 1 seed: 5 }')
  ((images, targets),) = batches(config, 1)
  image, label = _shape_scenes.generate('train', 0, 5)
  np.testing.assert_allclose(SYMMETRIC.invert(images[0]), image, atol=1e-4)
  np.testing.assert_array_equal(targets.semantic_map[0], label // 256)


def test_skipping_reads_but_does_not_decode(experiment):
  config = experiment(SHAPES + 'batch_size: 10 shapes { num_images: 2000 }')
  start = time.time()
  batches(config, 1, start_step=100000)
  assert time.time() - start < 10


# --- Evaluation -------------------------------------------------------------------------------


def test_evaluation_goes_once_through_the_files_in_order(records, experiment):
  config = experiment('', SHAPES + 'batch_size: 5 ' + records)
  found = list(pipeline.eval_dataset(config, INFO))
  assert [len(b.name) for b in found] == [5, 5, 3]
  names = [name.decode() for b in found for name in b.name.numpy()]
  assert names == [f'shapes_train_0_{i:06d}' for i in range(COUNT)]
  image, label = _shape_scenes.generate('train', 0)
  np.testing.assert_array_equal(found[0].label[0], label)
  np.testing.assert_allclose(
      SYMMETRIC.invert(found[0].images[0, :128, :160]), image, atol=1e-4)
  np.testing.assert_array_equal(found[0].images[0, 128:], 0)
  np.testing.assert_array_equal(found[0].images[0, :, 160:], 0)


def test_evaluation_pads_images_of_different_sizes(panoptic_folder, experiment):
  config = experiment('', panoptic_folder.options().replace('[21, 33]', '[17, 31]'))
  info = catalog.from_config(config)
  (batch,) = pipeline.eval_dataset(config, info)
  assert batch.images.shape == (2, 17, 31, 3) and batch.label.shape == (2, 20, 30)
  np.testing.assert_array_equal(batch.raw_size, [[20, 30], [16, 24]])
  # The first image is too high for the crop and shrinks by 17 / 20; the second stays.
  np.testing.assert_array_equal(batch.resized_size, [[17, 25], [16, 24]])
  assert not np.any(batch.label[1, 16:]) and not np.any(batch.label[1, :, 24:])
  assert np.any(batch.label == 256), 'crowd is kept for scoring'
  assert [n.decode() for n in batch.name.numpy()] == ['photo0', 'photo1']


def test_coco_format_reads_without_records(panoptic_folder, experiment):
  config = experiment(panoptic_folder.options())
  info = catalog.from_config(config)
  images, targets = next(iter(pipeline.train_dataset(config, info, 'mask', 0)))
  assert images.shape == (2, 21, 33, 3)
  np.testing.assert_array_equal(targets.mask_classes[:, :2], [[0, 0], [0, 0]])
  assert pipeline.count_examples(config.train_dataset_options) == 2


def test_without_labels_everything_is_void(records, experiment):
  config = experiment('', SHAPES + 'batch_size: 5 decode_groundtruth_label: false ' + records)
  assert not any(np.any(b.label) for b in pipeline.eval_dataset(config, INFO))


@pytest.mark.parity
def test_coco_at_full_crop(tmp_path, experiment):
  root = shared.path('data', 'coco_sample')
  build.main(['--dataset=coco_panoptic', f'--root={root}', '--split=val',
              f'--output_dir={tmp_path}'])
  config = experiment(f'dataset: "coco_panoptic" file_pattern: "{tmp_path}/val-*" crop_size: 641 '
                      'crop_size: 641 min_resize_value: 641 max_resize_value: 641 batch_size: 2')
  images, targets = next(iter(pipeline.train_dataset(
      config, catalog.built_in('coco_panoptic'), 'mask', 0)))
  assert images.shape == (2, 641, 641, 3) and targets.mask_classes.shape == (2, 128 + 53)
  things = np.sum(targets.mask_classes.numpy()[:, :128] >= 0, axis=1)
  assert sorted(things) == [14, 26]
  assert pipeline.count_examples(config.train_dataset_options) == 2


# --- Configs that cannot be used --------------------------------------------------------------


@pytest.mark.parametrize('text, message', [
    ('dataset: "shapes"', 'train_dataset_options.crop_size is not set'),
    (SHAPES + 'augmentations { autoaugment_policy_name: "x" }', 'autoaugment_policy_name is "x"'),
    (SHAPES + 'file_pattern: "${TRAIN_SET}"', 'placeholder "${TRAIN_SET}"'),
    ('dataset: "coco_panoptic" crop_size: [9, 9]',
     'train_dataset_options.file_pattern is not set'),
    ('dataset: "coco_format" crop_size: [9, 9] coco_format { image_dir: "x" }',
     'coco_format.annotation_file is not set'),
])
def test_config_errors_are_one_line(experiment, text, message):
  with pytest.raises(config_lib.ConfigError) as error:
    pipeline.train_dataset(experiment(text), INFO, 'mask', 1)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_copy_paste_of_scale_0_is_no_copy_paste(experiment):
  text = 'batch_size: 1 augmentations { panoptic_copy_paste { panoptic_copy_paste_scale: 0 } }'
  assert batches(experiment(SHAPES + text), 1)
