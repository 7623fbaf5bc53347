"""The SavedModel computes the same as the Python model, without this package."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tiny

import deeplab_tf
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.export import saved_model, serving_module

# Runs where deeplab_tf cannot be imported.
_ALONE = """
import sys
class Blocked:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('deeplab_tf', 'official', 'tensorflow_addons'):
      raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Blocked())
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
outputs = loaded.signatures['serving_default'](images=tf.constant(images))
encoded = tf.constant([tf.io.encode_png(image).numpy() for image in images])
again = loaded.signatures['serve_encoded'](encoded_images=encoded)
for name in outputs:
  assert (outputs[name].numpy() == again[name].numpy()).all(), name
np.savez(sys.argv[3], **{name: value.numpy() for name, value in outputs.items()})
"""


def _images(batch, height, width, seed=0):
  """Smooth random pictures."""
  coarse = np.random.default_rng(seed).uniform(0, 255, (batch, 5, 6, 3))
  return tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8).numpy()


def _build(**options):
  folder = options.pop('folder')
  config = deeplab_tf.load_config(tiny.write_config(folder, **options))
  info = catalog.from_config(config)
  keras.utils.set_random_seed(1)
  model = serving_module.build_network(config, info)
  return config, info, model, serving_module.build(config, info, model)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  folder = tmp_path_factory.mktemp('export')
  config, info, model, module = _build(folder=folder)
  directory = folder / 'saved_model'
  saved_model.export_saved_model(module, config, info, directory)
  return config, info, model, module, directory


def _assert_equal(actual, expected):
  assert set(actual) == set(expected)
  for name, value in expected.items():
    if actual[name].dtype == np.float32:
      np.testing.assert_allclose(actual[name], value, atol=1e-5, err_msg=name)
    else:
      np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.slow
def test_a_process_without_the_package_gets_the_same_maps(exported, tmp_path):
  *_, module, directory = exported
  images = _images(2, 90, 70)
  np.save(tmp_path / 'images.npy', images)
  subprocess.run([sys.executable, '-c', _ALONE, str(directory), str(tmp_path / 'images.npy'),
                  str(tmp_path / 'out.npz')], check=True, cwd=tmp_path)
  expected = {name: value.numpy() for name, value in module.predict(images).items()}
  _assert_equal(dict(np.load(tmp_path / 'out.npz')), expected)
  assert expected['panoptic_map'].shape == (2, 90, 70)


def test_outputs_have_the_promised_types_and_agree_with_each_other(exported):
  config, info, _, module, _ = exported
  outputs = {name: value.numpy() for name, value in module.predict(_images(1, 130, 60)).items()}
  queries = config.model_options.max_deeplab.num_queries
  for name in ('panoptic_map', 'semantic_map', 'instance_map'):
    assert outputs[name].dtype == np.int32 and outputs[name].shape == (1, 130, 60)
  for name, dtype in (('ids', np.int32), ('classes', np.int32), ('scores', np.float32)):
    assert outputs[f'segment_{name}'].dtype == dtype
    assert outputs[f'segment_{name}'].shape == (1, queries)
  panoptic = outputs['panoptic_map']
  np.testing.assert_array_equal(outputs['semantic_map'], panoptic // info.label_divisor)
  ids = outputs['segment_ids'][0]
  listed = ids[ids >= 0]
  assert len(listed) >= 2, 'the test needs segments'
  # Those of the map without void, in front, and -1 behind.
  assert sorted(listed) == sorted(set(np.unique(panoptic)) - {info.void_label})
  assert (ids[len(listed):] == -1).all() and (ids[:len(listed)] >= 0).all()
  np.testing.assert_array_equal(outputs['segment_classes'][0][:len(listed)],
                                listed // info.label_divisor)
  scores = outputs['segment_scores'][0]
  assert ((scores[:len(listed)] > 0) & (scores[:len(listed)] <= 1)).all()
  assert (scores[len(listed):] == -1).all()


def test_images_of_a_batch_are_segmented_as_if_alone(exported):
  *_, module, _ = exported
  images = _images(3, 65, 81)
  together = {name: value.numpy() for name, value in module.predict(images).items()}
  for i in range(3):
    alone = {name: value.numpy()[0] for name, value in module.predict(images[i:i + 1]).items()}
    _assert_equal({name: value[i] for name, value in together.items()}, alone)


def test_the_network_sees_the_evaluation_preprocessing(exported):
  *_, module, _ = exported
  # Small images are padded at the bottom and on the right with the mean color, 0 after
  # normalization, and not resized.
  small = _images(1, 40, 50)
  inputs, size = module.prepare(tf.constant(small))
  assert inputs.shape == (1, 65, 81, 3) and list(size) == [40, 50]
  np.testing.assert_allclose(inputs[0, :40, :50], small[0] / 127.5 - 1, atol=1e-5)
  assert not inputs[0, 40:].numpy().any() and not inputs[0, :, 50:].numpy().any()
  # Large ones shrink until they fit: 200 x 100 by 65 / 200.
  _, size = module.prepare(tf.constant(_images(1, 200, 100)))
  assert list(size) == [65, 32]


def test_the_network_sees_the_configs_normalization(tmp_path):
  config, info, model, _ = _build(folder=tmp_path)
  config.model_options.image_normalization = config.model_options.IMAGENET
  module = serving_module.build(config, info, model)
  small = _images(1, 40, 50)
  inputs, _ = module.prepare(tf.constant(small))
  expected = (small[0] - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
  np.testing.assert_allclose(inputs[0, :40, :50], expected, atol=1e-5)
  assert not inputs[0, 40:].numpy().any() and not inputs[0, :, 50:].numpy().any()


def test_without_a_crop_size_the_network_works_at_the_images_own_size(tmp_path):
  config, info, model, _ = _build(folder=tmp_path)
  config.eval_dataset_options.ClearField('crop_size')
  module = serving_module.build(config, info, model)
  inputs, size = module.prepare(tf.constant(_images(1, 50, 70)))
  assert inputs.shape == (1, 50, 70, 3) and list(size) == [50, 70]
  assert module.predict(_images(1, 50, 70))['panoptic_map'].shape == (1, 50, 70)


def test_segments_that_vanish_in_resizing_are_not_listed():
  prediction = _prediction([[[7, 7], [9, 9]]], ids=[5, 9, -1, 7])
  compacted = serving_module.compact_segments(prediction)
  assert compacted.segment_ids.numpy().tolist() == [[9, 7, -1, -1]]
  assert compacted.segment_classes.numpy().tolist() == [[9, 7, -1, -1]]
  np.testing.assert_allclose(compacted.segment_scores, [[0.9, 0.7, -1, -1]])


def test_segments_of_a_batch_are_those_of_each_image():
  one, two = _prediction([[[7, 9]]], ids=[5, 9, -1, 7]), _prediction([[[5, 5]]], ids=[9, 5, 7, -1])
  both = type(one)(*(tf.concat(fields, 0) for fields in zip(one, two)))
  assert serving_module.compact_segments(both).segment_ids.numpy().tolist() == [
      [9, 7, -1, -1], [5, -1, -1, -1]]


def _prediction(panoptic, ids):
  from deeplab_tf.structures import PanopticPrediction
  panoptic, ids = tf.constant(panoptic), tf.constant([ids])
  scores = tf.where(ids < 0, -1.0, tf.cast(ids, tf.float32) / 10)
  return PanopticPrediction(panoptic_map=panoptic, semantic_map=panoptic, instance_map=panoptic,
                            segment_ids=ids, segment_classes=ids, segment_scores=scores)


def test_weights_that_only_training_uses_are_not_exported(exported):
  _, _, model, _, directory = exported
  assert model.semantic_head is None
  reader = tf.train.load_checkpoint(str(directory / 'variables' / 'variables'))
  names = [name for name in reader.get_variable_to_shape_map() if 'GRAPH' not in name]
  assert len(names) == len(model.variables)


def test_batch_norms_are_folded_into_the_exported_weights(tmp_path):
  config = deeplab_tf.load_config(tiny.write_config(tmp_path))
  info = catalog.from_config(config)
  keras.utils.set_random_seed(1)
  model = serving_module.build_network(config, info)
  inputs = tf.random.uniform([1, 65, 81, 3], -1, 1, seed=2)
  expected, variables = model(inputs), len(model.variables)
  module = serving_module.build(config, info, model)
  for name, value in model(inputs).items():
    np.testing.assert_allclose(value, expected[name], atol=1e-4 * np.abs(expected[name]).max())
  assert len(module.variables) == len(model.variables) < 0.6 * variables
  # Of the norms that are left, none is over the channels of a map.
  left = [v for v in module.variables if 'moving_variance' in v.name]
  assert len(left) < 0.1 * variables


def test_the_export_tells_classes_and_config(exported):
  config, info, _, _, directory = exported
  extra = pathlib.Path(directory) / 'assets.extra'
  assert DatasetInfo.from_json((extra / 'dataset.json').read_text()) == info
  again = deeplab_tf.load_config(extra / 'config.textproto')
  assert again == config
  assert json.loads((extra / 'dataset.json').read_text())['name'] == 'shapes'


def test_an_earlier_export_is_replaced_and_anything_else_is_refused(exported, tmp_path):
  config, info, _, module, directory = exported
  before = (directory / 'saved_model.pb').stat().st_ino
  saved_model.export_saved_model(module, config, info, directory)
  assert (directory / 'saved_model.pb').stat().st_ino != before
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'thesis.txt').write_text('precious')
  with pytest.raises(ValueError, match='no earlier export'):
    saved_model.export_saved_model(module, config, info, other)
  assert [p.name for p in other.iterdir()] == ['thesis.txt']
  with pytest.raises(ValueError, match='is a file'):
    saved_model.export_saved_model(module, config, info, other / 'thesis.txt')


def test_an_export_that_fails_leaves_nothing_behind(tmp_path):
  target = tmp_path / 'export'
  with pytest.raises(RuntimeError), saved_model.whole_folder(str(target), 'saved_model.pb') as new:
    pathlib.Path(new, 'saved_model.pb').write_text('half')
    raise RuntimeError
  assert not list(tmp_path.iterdir())
