"""MaX-DeepLab and its post-processing equal DeepLab2's."""

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


# The large network takes most of a minute and 4.4 GB.
MODELS = ['max_deeplab_s', pytest.param('max_deeplab_l', marks=pytest.mark.slow)]


@pytest.fixture(scope='module', params=MODELS)
def recorded(request):
  return parity_weights.load_model_case(request.param)


@pytest.fixture(scope='module')
def model_and_images(recorded):
  description, _, _ = recorded
  config = parity_weights.load_config(description)
  model = deeplab_tf.build_model(config)
  load_reference_weights(model, 'deeplab2', parity_weights.recipe_weights(description))
  return config, model, parity_weights.images(description)


def test_features_and_outputs_equal_deeplab2(recorded, model_and_images):
  _, noise, expected = recorded
  _, model, images = model_and_images

  def check(actual, name):
    parity_weights.assert_recorded(actual, expected, noise, name)

  features, memory = model.backbone(images, tf.identity(model.queries))
  for level in range(1, 6):
    for kind in ('stage', 'res'):
      check(features[f'{kind}{level}'], f'endpoint|{kind}{level}')
  check(features['backbone_output'], 'endpoint|backbone_output')
  steps = 0 if model.backbone.decoder is None else len(model.backbone.decoder.outputs)
  for step in range(1, steps + 1):
    check(features[f'decoder{step}'], f'inter|encoder/_decoder_stage{step}#0')
  last = f'_decoder_stage{steps}' if steps else '_stage5'
  check(memory, f'inter|encoder/{last}#1')

  features['extra'], memory = model.extra_stage(features[model.backbone.decoder_inputs[-1].name],
                                                memory)
  check(features['extra'], f'inter|encoder/{last}_extra#0')
  features, memory = model.pixel_decoder(features, memory)
  for output in model.pixel_decoder.outputs:
    step = output.name[len('decoder'):]
    check(features[output.name], f'inter|encoder/_decoder_stage{step}_extra#0')
  check(tf.nn.relu(features[output.name]), 'endpoint|feature_panoptic')
  head = model.mask_head
  check(head.class_feature(memory), 'endpoint|transformer_class_feature')
  check(head.mask_feature(memory), 'endpoint|transformer_mask_feature')
  outputs = model(images)
  for name, ours in RAW_OUTPUTS.items():
    check(outputs[ours], f'decoder|{name}')


def test_postprocessing_equals_deeplab2(recorded, model_and_images):
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
  parity_weights.assert_recorded(maps.pixel_score, expected, noise, 'model|instance_scores')
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
