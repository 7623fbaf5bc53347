"""MaX-DeepLab's promises beyond equal numbers: any size, every option, gradients, compilation."""

import model_battery
import numpy as np
import pytest
import tensorflow as tf
import tiny

from deeplab_tf import models
from deeplab_tf.compat import keras
from deeplab_tf.config import load_config
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.layers import randomness
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.models import max_deeplab


def _config(tmp_path, *overrides):
  return load_config(tiny.write_config(tmp_path), overrides)


def _parts(config):
  info = catalog.from_config(config)
  return info, models.build_model(config), max_deeplab.build_criterion(config, info)


def _batch(config, info):
  return next(iter(pipeline.train_dataset(config, info, 'mask', seed=0)))


@pytest.mark.parametrize('size', [(65, 65), (64, 97), (33, 130), (50, 41)])
def test_any_input_size_gives_masks_at_a_quarter_of_it(tmp_path, size):
  # With some weights of so small a network a pixel's features are all zero, and have no direction.
  keras.utils.set_random_seed(0)
  config = _config(tmp_path)
  info, model, _ = _parts(config)
  outputs = model(tf.random.uniform([2, *size, 3]))
  quarter = [-(-n // 4) for n in size]
  queries = config.model_options.max_deeplab.num_queries
  assert outputs['mask_logits'].shape == [2, *quarter, queries]
  assert outputs['class_logits'].shape == [2, queries, len(info.class_ids) + 1]
  assert outputs['pixel_features'].shape[:3] == [2, *quarter]
  assert outputs['semantic_logits'].shape == [2, *quarter, info.num_classes]
  np.testing.assert_allclose(tf.norm(outputs['pixel_features'], axis=-1), 1, atol=1e-5)
  assert all(np.isfinite(v).all() for v in outputs.values())


def test_sizes_unknown_while_tracing_give_the_same_outputs(tmp_path):
  model_battery.check_sizes_unknown_while_tracing(_parts(_config(tmp_path))[1], (65, 97))


def test_variables_exist_before_the_first_call_and_none_is_made_by_it(tmp_path):
  model_battery.check_no_call_makes_variables(_parts(_config(tmp_path))[1])


OPTIONS = {
    'axial': 'max_deeplab { pixel_to_pixel_attention: AXIAL }',
    'convolution': 'max_deeplab { pixel_to_pixel_attention: CONVOLUTION }',
    'no P2M': 'max_deeplab { pixel_to_memory_attention: false }',
    'no M2M': 'max_deeplab { memory_to_memory_attention: false }',
    'neither': 'max_deeplab { pixel_to_memory_attention: false memory_to_memory_attention: false }',
    'stack and stride 8, D = 3': 'max_deeplab { num_decoder_stacks: 1 transformer_beyond_stride: 8 '
                                 'transformer_channels: 64 '
                                 'pixel_space_head { output_channels: 3 } }',
    'large': 'backbone { name: "max_deeplab_l" use_squeeze_and_excite: true recomputed: BLOCKS }',
}


@pytest.mark.parametrize('name', OPTIONS)
def test_every_option_trains_every_variable(tmp_path, name):
  config = _config(tmp_path, f'model_options {{ {OPTIONS[name]} }}')
  info, model, criterion = _parts(config)
  images, targets = _batch(config, info)
  idle = model_battery.idle_variables(model, criterion, images, targets)
  # An offset that all logits of a softmax share changes nothing.
  invariant = ('mask_head/norm_masks/beta', 'norm_similarity/beta')
  assert not [p for p in idle if not p.endswith(invariant)], idle
  names = ' '.join(variables_by_path(model))
  assert ('attention/height_axis' in names) == (name != 'convolution')
  assert ('pixel_attention' in names) == ('P2M' not in name and name != 'neither')


def test_networks_that_cannot_be_are_one_line(tmp_path):
  config = _config(tmp_path, 'model_options { max_deeplab { num_backbone_decoder_stacks: 1 } }')
  with pytest.raises(ValueError, match='num_backbone_decoder_stacks is 1 and num_decoder_stacks 0'):
    models.build_model(config)
  config.model_options.max_deeplab.num_backbone_decoder_stacks = 0
  config.model_options.max_deeplab.transformer_channels = 12
  with pytest.raises(ValueError, match='12 channels do not divide into 8 heads'):
    models.build_model(config)
  config.model_options.backbone.name = 'max_deeplab_x'
  with pytest.raises(ValueError, match='max_deeplab takes max_deeplab_s, max_deeplab_l. Did you'):
    models.build_model(config)


def test_the_two_matching_solvers_give_the_same_losses_and_gradients(tmp_path):
  keras.utils.set_random_seed(1)
  info, model, _ = _parts(_config(tmp_path))
  images, targets = _batch(_config(tmp_path), info)
  outputs = model(images, training=True)
  found = []
  for solver in ('SCIPY', 'NATIVE'):
    config = _config(tmp_path, 'trainer_options { loss_options { '
                               f'matching_solver: {solver} }} }}')
    criterion = max_deeplab.build_criterion(config, info)
    with tf.GradientTape() as tape:
      tape.watch(outputs)
      losses = criterion(outputs, targets).losses
      total = tf.add_n(list(losses.values()))
    found.append((losses, tape.gradient(total, outputs)))
  for part, other in zip(*found):
    for name in part:
      np.testing.assert_allclose(part[name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_drop_path_follows_the_seed_and_stops_at_inference(tmp_path):
  config = _config(tmp_path, 'model_options { backbone { drop_path_keep_prob: 0.5 } }')
  _, model, _ = _parts(config)
  for path, variable in variables_by_path(model).items():
    if path.endswith('gamma'):
      variable.assign(tf.maximum(variable, 0.1))
  images = tf.random.uniform([2, 65, 65, 3])

  def logits(seed):
    with randomness.seeded(tf.constant([0, seed])):
      return model(images, training=True)['mask_logits'].numpy()

  np.testing.assert_array_equal(logits(1), logits(1))
  assert np.abs(logits(1) - logits(2)).max() > 1e-3
  np.testing.assert_array_equal(model(images)['mask_logits'], model(images)['mask_logits'])


def test_variable_groups(tmp_path):
  _, model, _ = _parts(_config(tmp_path))
  paths = {id(v): path for path, v in variables_by_path(model).items()}
  backbone = {paths[id(v)] for v in model_battery.backbone_variables(
      max_deeplab.ARCHITECTURE, model)}
  assert backbone
  assert all(p.startswith('backbone/') and 'transformers' not in p for p in backbone)
  inference = {paths[id(v)] for v in max_deeplab.inference_variables(model)}
  assert not any(p.startswith('semantic_') for p in inference)
  assert {p for p in paths.values() if p.startswith('mask_head') and 'moving' not in p} < inference


def test_without_the_auxiliary_head_there_are_no_semantic_logits(tmp_path):
  config = _config(tmp_path)
  config.model_options.max_deeplab.ClearField('auxiliary_semantic_head')
  config.trainer_options.loss_options.semantic_loss.weight = 0
  info, model, criterion = _parts(config)
  images, targets = _batch(config, info)
  outputs = model(images, training=True)
  assert 'semantic_logits' not in outputs
  assert np.isfinite(criterion(outputs, targets).total).all()
