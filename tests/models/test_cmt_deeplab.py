"""CMT-DeepLab: any size, every switch, gradients, the baseline, two networks."""

import model_battery
import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_cmt

import deeplab_tf
from deeplab_tf import models, profiling
from deeplab_tf.compat import keras
from deeplab_tf.config import ConfigError, load_config
from deeplab_tf.data import catalog
from deeplab_tf.layers import folding, randomness
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.models import cmt_deeplab
from deeplab_tf.structures import split_layers

_GELU = 'model_options { backbone { activation: GELU } }'
_ALL_OFF = tiny_cmt.override(
    tiny_cmt.NO_CLUSTERING, tiny_cmt.NO_REFERENCES, tiny_cmt.BASELINE_DECODER,
    'instance_discrimination_sample_k: 0', backbone='name: "max_deeplab_s"')
_IMAGES = tf.random.stateless_normal([2, 65, 81, 3], [0, 1])


def _config(tmp_path, *overrides):
  return load_config(tiny_cmt.write_config(tmp_path), overrides)


class TestCMTDeepLab(model_battery.ModelBattery):
  CONFIG = tiny_cmt.config_text()
  OPTIONS = {
      'as it is': '',
      'no clustering': f'cmt_deeplab {{ {tiny_cmt.NO_CLUSTERING} }}',
      'no coordinates': f'cmt_deeplab {{ {tiny_cmt.NO_COORDINATES} }}',
      'baseline decoder, stride 32': f'cmt_deeplab {{ {tiny_cmt.BASELINE_DECODER} }} backbone {{ '
                                     'name: "max_deeplab_s" output_stride: 32 }',
      'two networks, recomputed': f'cmt_deeplab {{ {tiny_cmt.RECURSIVE} }} backbone {{ '
                                  'recomputed: BLOCKS }',
      'two blocks, stride 32, groups recomputed':
          'cmt_deeplab { decoder_blocks_per_stage: 2 } '
          'backbone { name: "axial_resnet104" output_stride: 32 recomputed: BLOCK_GROUPS }',
  }
  # An offset that all logits of a softmax share changes nothing.
  INVARIANT = ('mask_head/norm_masks/beta', 'norm_similarity/beta', 'norm_affinity/beta')

  def shapes(self, network, size):
    quarter = [-(-n // 4) for n in size]
    return {'mask_logits': [*quarter, 16],
            'class_logits': [16, len(network.info.class_ids) + 1],
            'pixel_features': [*quarter, 16],
            'semantic_logits': [*quarter, network.info.num_classes]}

  def test_layers_predict_in_training_and_on_request(self, network):
    last = network.model(_IMAGES)
    found = network.model(_IMAGES, all_predictions=True)
    assert set(found) == set(last) | {'mask_logits_0', 'reference_points'}
    for name, value in last.items():
      np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert found['mask_logits_0'].shape == (2, 5, 6, 16)
    assert found['reference_points'].shape == (2, 2, 16, 3, 2)
    assert 0 < tf.reduce_min(found['reference_points']) < tf.reduce_max(
        found['reference_points']) < 1
    assert len(split_layers(network.model(_IMAGES, training=True))) == 3


def test_all_switched_off_it_is_max_deeplab(tmp_path):
  baseline = load_config(tiny.write_config(tmp_path), [_GELU])
  config = _config(tmp_path, tiny_cmt.NO_APPROXIMATION, _ALL_OFF)
  networks = []
  for experiment in (baseline, config):
    keras.utils.set_random_seed(1)
    networks.append(model_battery.build(experiment))
  shapes = [{path: v.shape for path, v in variables_by_path(network.model).items()}
            for network in networks]
  assert shapes[0] == shapes[1]
  batch = networks[0].batch()
  found = []
  for network in networks:
    for path, variable in variables_by_path(network.model).items():
      variable.assign(variables_by_path(networks[0].model)[path])
    with randomness.seeded(tf.constant([0, 2])):  # Of dropout.
      outputs = network.model(batch[0], training=True)
    found.append({**outputs, **network.criterion(outputs, batch[1]).losses})
  assert set(found[0]) == set(found[1])
  for name, value in found[0].items():
    np.testing.assert_array_equal(found[1][name], value, err_msg=name)


def test_nothing_has_kept_relu(tmp_path, monkeypatch):
  model = models.build_model(_config(tmp_path))

  def forbidden(*_, **__):
    raise AssertionError('relu is called')

  with monkeypatch.context() as patch:
    patch.setattr(tf.nn, 'relu', forbidden)
    model(_IMAGES, training=True)


def test_the_mask_logits_end_with_those_of_the_last_layer(tmp_path):
  model = models.build_model(_config(tmp_path))
  for layer in model.submodules:
    if hasattr(layer, 'norm_masks'):  # Nothing but the residual is left.
      layer.norm_masks.gamma.assign([0.])
  found = model(_IMAGES)
  _, clusters = model.extract(_IMAGES, False)
  offset = model.mask_head.norm_masks.beta
  np.testing.assert_allclose(found['mask_logits'][:, ::4, ::4] - offset, clusters.affinities[-1],
                             atol=1e-5)


def test_two_networks(tmp_path):
  single = model_battery.build(_config(tmp_path))
  double = model_battery.build(_config(tmp_path, tiny_cmt.override(tiny_cmt.RECURSIVE)))
  paths = set(variables_by_path(single.model))
  assert set(variables_by_path(double.model)) == paths | {f'first_network/{p}' for p in paths}
  sizes = [sum(v.shape.num_elements() for v in cmt_deeplab.inference_variables(network.model))
           for network in (single, double)]
  assert sizes[1] == 2 * sizes[0]
  # The first network is the single one, and its last feature counts in the second.
  first = double.model.first_network
  for path, variable in variables_by_path(first).items():
    variable.assign(variables_by_path(single.model)[path])
  expected = single.model(_IMAGES)
  np.testing.assert_allclose(first(_IMAGES)['mask_logits'], expected['mask_logits'], atol=1e-5)
  features, _ = single.model.extract(_IMAGES, False)
  features, clusters = single.model.extract(_IMAGES, False, features['decoder3'])
  again = single.model.outputs_of(features, clusters, False)
  for path, variable in variables_by_path(single.model).items():
    variables_by_path(double.model)[path].assign(variable)
  found = double.model(_IMAGES)
  np.testing.assert_allclose(found['mask_logits'], again['mask_logits'], atol=1e-5)
  assert np.abs(found['mask_logits'] - expected['mask_logits']).max() > 1e-2


def test_pretrained_variables_are_those_of_both_backbones(tmp_path):
  config = _config(tmp_path, tiny_cmt.override(tiny_cmt.RECURSIVE))
  model = models.build_model(config)
  paths = {id(v): path for path, v in variables_by_path(model).items()}
  backbone = {paths[id(v)] for v in model_battery.backbone_variables(
      cmt_deeplab.ARCHITECTURE, model)}
  assert {path.split('/')[0] for path in backbone} == {'backbone', 'first_network'}
  assert all('backbone/' in path and 'transformers' not in path for path in backbone)


@pytest.mark.parametrize('override, message', [
    ('model_options { cmt_deeplab { num_reference_points: 0 } }',
     'model_options.cmt_deeplab.coordinate_convolutions is true and num_reference_points is 0: '
     'the coordinates of centers are their reference masks; set the first to false or the second '
     'above 0, e.g. 8'),
    ('model_options { backbone { output_stride: 8 } }',
     'model_options.backbone.output_stride is 8: cmt_deeplab takes 16 and 32 with its '
     'stronger_decoder'),
    ('model_options { backbone { name: "max_deeplab_s" } }',
     'model_options.backbone.name is "max_deeplab_s": cmt_deeplab takes axial_resnet50, '
     'axial_resnet104 with its stronger_decoder.'),
    ('model_options { cmt_deeplab { stronger_decoder: false } }',
     'model_options.backbone.name is "axial_resnet50": cmt_deeplab takes max_deeplab_s without its '
     'stronger_decoder.')])
def test_networks_that_cannot_be_are_one_line(tmp_path, override, message):
  with pytest.raises(ConfigError) as error:
    deeplab_tf.build_model(_config(tmp_path, override))
  assert str(error.value) == message


def test_a_mask_approximation_loss_needs_reference_masks(tmp_path):
  config = _config(tmp_path, tiny_cmt.override(tiny_cmt.NO_REFERENCES))
  with pytest.raises(ConfigError) as error:
    cmt_deeplab.build_criterion(config, catalog.from_config(config))
  assert str(error.value) == (
      'trainer_options.loss_options.mask_approximation_loss has weight 1 and needs reference '
      'masks, but model_options.cmt_deeplab.num_reference_points is 0: set it, e.g. to 8, or clear '
      'mask_approximation_loss')


def test_reference_masks_that_nothing_trains_are_refused(tmp_path):
  config = _config(tmp_path, tiny_cmt.override(tiny_cmt.NO_COORDINATES), tiny_cmt.NO_APPROXIMATION)
  with pytest.raises(ConfigError) as error:
    cmt_deeplab.build_criterion(config, catalog.from_config(config))
  assert str(error.value) == (
      'model_options.cmt_deeplab.num_reference_points is 3 with coordinate_convolutions: false and '
      'without mask_approximation_loss, so that nothing trains the reference masks: set the loss, '
      'or num_reference_points to 0')


def test_output_strides_change_no_variable(tmp_path):
  found = [{path: v.shape for path, v in variables_by_path(models.build_model(_config(
      tmp_path, f'model_options {{ backbone {{ output_stride: {stride} }} }}'))).items()}
           for stride in (16, 32)]
  assert found[0] == found[1]


def test_folding_norms_changes_no_output(tmp_path):
  # Not with the random statistics of test_folding.py: of two images of noise, what centers read of
  # a nearly even assignment hardly varies, so that its norm makes much of the last digits.
  keras.utils.set_random_seed(3)
  model = models.build_model(_config(tmp_path))
  rng = np.random.default_rng(0)
  for layer in model.submodules:
    if isinstance(layer, BatchNorm):
      layer.gamma.assign(rng.uniform(0.5, 1, layer.gamma.shape))
      layer.beta.assign(rng.normal(size=layer.beta.shape) / 4)
      layer.moving_mean.assign(rng.normal(size=layer.beta.shape) / 4)
  expected = model(_IMAGES)
  folding.fold_norms(model)
  for name, value in model(_IMAGES).items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-3,
                               atol=1e-4 * np.abs(expected[name]).max(), err_msg=name)


def test_two_networks_are_counted_by_part(tmp_path):
  config = _config(tmp_path, tiny_cmt.override(tiny_cmt.RECURSIVE))
  parts = profiling.summarize(config).by_part
  assert parts['first_network'].madds > 0.3 * sum(part.madds for part in parts.values())
  assert 'other' not in parts or parts['other'].madds < 1e6
