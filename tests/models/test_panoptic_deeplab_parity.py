"""Panoptic-DeepLab, Axial-DeepLab and their post-processing equal DeepLab2's."""

import numpy as np
import parity_weights
import pytest
import tensorflow as tf

import deeplab_tf
from deeplab_tf import models
from deeplab_tf.checkpoints.reference import load_reference_weights
from deeplab_tf.data import catalog
from deeplab_tf.layers.resizing import resize_bilinear, resize_offsets

pytestmark = pytest.mark.parity

# DeepLab2's output names to ours.
RAW_OUTPUTS = {'semantic_logits': 'semantic_logits', 'center_heatmap': 'center_heatmap',
               'offset_map': 'center_offsets'}
MODELS = ['panoptic_deeplab_resnet50', 'panoptic_deeplab_resnet50_beta', 'wide_resnet41',
          'axial_deeplab_max_deeplab_s_backbone',
          # 136 million weights.
          pytest.param('axial_swidernet_1_1_1', marks=pytest.mark.slow)]


@pytest.fixture(scope='module', name='case', params=MODELS)
def fixture_case(request):
  """Returns (config, outputs, noise, what is recorded, the input size)."""
  description, noise, recorded = parity_weights.load_model_case(request.param)
  config = parity_weights.load_config(description)
  model = deeplab_tf.build_model(config)
  # Every variable has a weight, and every weight a variable.
  load_reference_weights(model, 'deeplab2', parity_weights.recipe_weights(description))
  images = parity_weights.images(description)
  return config, model(images), noise, recorded, images.shape[1:3]


def test_raw_outputs_equal_deeplab2(case):
  _, outputs, noise, recorded, _ = case
  assert set(outputs) == set(RAW_OUTPUTS.values())
  for theirs, ours in RAW_OUTPUTS.items():
    assert outputs[ours].shape == recorded[f'decoder|{theirs}|shape']
    parity_weights.assert_recorded(outputs[ours], recorded, noise, f'decoder|{theirs}')


def test_outputs_at_the_input_size_equal_deeplab2(case):
  _, outputs, noise, recorded, size = case
  for theirs, ours in RAW_OUTPUTS.items():
    resize = resize_offsets if ours == 'center_offsets' else resize_bilinear
    parity_weights.assert_recorded(resize(outputs[ours], size), recorded, noise,
                                   f'model|{theirs}')


def test_postprocessing_equals_deeplab2(case):
  config, outputs, noise, recorded, size = case
  postprocess = models.architecture(config).build_postprocessor(config, catalog.from_config(config))
  prediction, maps = postprocess.with_centers(outputs, size)

  def share_different(values, name):
    values = np.asarray(values).reshape(-1)[recorded[f'model|{name}|idx']]
    return np.mean(values != recorded[f'model|{name}|val'])

  for values, name in ((prediction.panoptic_map, 'panoptic_pred'),
                       (prediction.semantic_map, 'semantic_pred'),
                       (maps.center_map, 'instance_pred')):
    allowed = noise[f'model|{name}'].get('fraction_different', 0) + 1e-3
    assert share_different(values, name) <= allowed, name
  scores = tf.gather(tf.pad(maps.center_scores, [[0, 0], [1, 0]]), maps.center_map, batch_dims=1)
  assert share_different(np.abs(scores) > 0, 'instance_scores') <= 1
  parity_weights.assert_recorded(scores, recorded, noise, 'model|instance_scores')
