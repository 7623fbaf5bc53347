"""MaX-DeepLab-S and its read-out compute what DeepLab2's compute."""

import json

import numpy as np
import parity_weights
import pytest
import shared
import tensorflow as tf

import deeplab_tf
from deeplab_tf import models
from deeplab_tf.checkpoints.reference import load_reference_weights
from deeplab_tf.data import catalog
from deeplab_tf.models import max_deeplab

pytestmark = pytest.mark.parity

# DeepLab2's output names to ours.
RAW_OUTPUTS = {
    'pixel_space_mask_logits': 'mask_logits',
    'pixel_space_normalized_feature': 'pixel_features',
    'transformer_class_logits': 'class_logits',
    'semantic_logits': 'semantic_logits',
}


@pytest.fixture(scope='module')
def recorded():
  folder = shared.path('parity', 'deeplab2')
  description = json.loads((folder / 'weights_max_deeplab_s.json').read_text())
  noise = json.loads((folder / 'noise_max_deeplab_s.json').read_text())
  return description, noise, dict(np.load(folder / 'outputs_max_deeplab_s.npz'))


@pytest.fixture(scope='module')
def model_and_images(recorded):
  description, _, _ = recorded
  height, width = description['train_crop_size']
  config = deeplab_tf.load_config(
      shared.path('parity', 'deeplab2', 'configs', description['config']),
      [f'train_dataset_options {{ crop_size: {height} crop_size: {width} min_resize_value: 0 '
       'max_resize_value: 0 } eval_dataset_options { '
       f'crop_size: {height} crop_size: {width} min_resize_value: 0 max_resize_value: 0 }}'])
  model = deeplab_tf.build_model(config)
  load_reference_weights(model, 'deeplab2', parity_weights.recipe_weights(description))
  image = shared.recipe().image(description['image_name'], *description['image_size'])
  # The fixture's input is in [0, 255]; normalised with its own rounding.
  image = ((image + 1) * np.float32(127.5)) / np.float32(127.5) - 1
  return config, model, tf.constant(image[None])


def _assert_near(actual, recorded_outputs, noise, name):
  shape = recorded_outputs[f'{name}|shape']
  actual = np.asarray(actual)
  assert actual.size == np.prod(shape), name
  values = actual.reshape(-1)[recorded_outputs[f'{name}|idx']]
  expected = recorded_outputs[f'{name}|val']
  # Rounding alone moves an endpoint by `max_abs_diff`; 1e-4 of the maximum is comfortable.
  tolerance = max(1e-4 * noise[name]['max_abs'], 2 * noise[name]['max_abs_diff'])
  assert np.abs(values - expected).max() <= tolerance, name


def test_features_and_outputs_equal_deeplab2(recorded, model_and_images):
  _, noise, expected = recorded
  _, model, images = model_and_images
  memory = tf.identity(model.queries)
  features, memory = model.backbone(images, memory)
  for level in range(1, 6):
    for kind in ('stage', 'res'):
      _assert_near(features[f'{kind}{level}'], expected, noise, f'endpoint|{kind}{level}')
  _assert_near(memory, expected, noise, 'inter|encoder/_stage5#1')
  pixels, memory = model.extra_stage(features['stage5'], memory)
  _assert_near(pixels, expected, noise, 'inter|encoder/_stage5_extra#0')
  pixels, memory = model.pixel_decoder(pixels, (features['stage3'], features['stage2']), memory)
  _assert_near(pixels, expected, noise, 'endpoint|feature_panoptic')
  head = model.mask_head
  _assert_near(head.class_feature(memory), expected, noise, 'endpoint|transformer_class_feature')
  _assert_near(head.mask_feature(memory), expected, noise, 'endpoint|transformer_mask_feature')
  outputs = model(images)
  for name, ours in RAW_OUTPUTS.items():
    _assert_near(outputs[ours], expected, noise, f'decoder|{name}')


def test_read_out_equals_deeplab2(recorded, model_and_images):
  _, noise, expected = recorded
  config, model, images = model_and_images
  postprocessor = max_deeplab.build_postprocessor(config, catalog.from_config(config))
  outputs = model(images)
  maps = postprocessor.query_maps(outputs, images.shape[1:3])
  prediction = postprocessor(outputs, images.shape[1:3])
  recorded_map = expected['model|panoptic_pred|val']
  actual = prediction.panoptic_map.numpy().reshape(-1)[expected['model|panoptic_pred|idx']]
  allowed = noise['model|panoptic_pred'].get('fraction_different', 0) + 1e-3
  assert np.mean(actual != recorded_map) <= allowed
  instance = (maps.query_map + 1).numpy().reshape(-1)[expected['model|instance_pred|idx']]
  assert np.mean(instance != expected['model|instance_pred|val']) <= allowed
  _assert_near(maps.pixel_score, expected, noise, 'model|instance_scores')
  # No query passes the class threshold here, and then DeepLab2's scores are zero.
  assert not maps.kept.numpy().any()
  assert not expected['model|semantic_scores|val'].any()


def _small_checkpoint():
  folder = shared.path('parity', 'deeplab2', 'checkpoint_small_max_deeplab')
  config = deeplab_tf.load_config(folder / 'model.textproto')
  model = deeplab_tf.build_model(config)
  reader = tf.train.load_checkpoint(str(folder / 'ckpt'))
  weights = {n: reader.get_tensor(n) for n in reader.get_variable_to_shape_map()
             if n != '_CHECKPOINTABLE_OBJECT_GRAPH'}
  load_reference_weights(model, 'deeplab2', weights)
  return config, model, dict(np.load(folder / 'io.npz'))


def test_a_real_deeplab2_checkpoint_gives_its_outputs():
  config, model, arrays = _small_checkpoint()
  images = tf.constant(arrays['input'] / np.float32(127.5) - 1)
  outputs = model(images)
  for name, ours in RAW_OUTPUTS.items():
    expected = arrays[f'out|{name}']
    error = np.abs(outputs[ours].numpy() - expected).max()
    assert error < 1e-4 * np.abs(expected).max(), name
  postprocessor = models.architecture(config).build_postprocessor(
      config, catalog.from_config(config))
  prediction = postprocessor(outputs, images.shape[1:3])
  assert np.mean(prediction.panoptic_map.numpy() != arrays['out|panoptic_pred']) < 1e-3
  maps = postprocessor.query_maps(outputs, images.shape[1:3])
  assert np.mean(maps.query_map.numpy() + 1 != arrays['out|instance_pred']) < 1e-3
  np.testing.assert_allclose(maps.pixel_score, arrays['out|instance_scores'], atol=1e-5)
  scores = tf.gather(maps.query_score, maps.query_map, batch_dims=1)
  assert np.mean(np.abs(scores - arrays['out|semantic_scores']) > 1e-5) < 1e-3


def test_weights_that_do_not_fit_are_listed_and_change_nothing():
  config, model, _ = _small_checkpoint()
  before = model.queries.numpy()
  with pytest.raises(ValueError, match='missing: .*1 unknown: nobody'):
    load_reference_weights(model, 'deeplab2', {'nobody': np.zeros(3)})
  np.testing.assert_array_equal(before, model.queries.numpy())
