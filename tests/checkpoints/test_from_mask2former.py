"""Checkpoints of Mask2Former's own code, and of its backbones, become those of this library."""

import re

import mask2former_checkpoints as recorded
import numpy as np
import pytest
import torch_files

import deeplab_tf
from deeplab_tf.checkpoints import (
    convert,
    from_huggingface,
    from_mask2former,
    load_reference_weights,
    restore,
)
from deeplab_tf.checkpoints.detectron_reader import read_detectron_weights
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.user_errors import CheckpointError


@pytest.mark.parity
@pytest.mark.parametrize('variant', recorded.RELEASED)
def test_every_weight_of_a_released_model_has_one_variable(variant, tmp_path):
  weights, model = recorded.released_weights(variant), recorded.released_model(variant, tmp_path)
  recorded.assert_every_weight_is_used(from_mask2former, model,
                                       {w['name']: w['shape'] for w in weights})
  # Those of Hugging Face, of which some are thirds: in files, and in the memory of version 5.
  for key in ('name', 'name_v5'):
    recorded.assert_every_weight_is_used(from_huggingface, model, {
        own.get(key, own['name']): [w['shape'][0] // own.get('part', [0, 1])[1], *w['shape'][1:]]
        for w in weights for own in w['hf']})


@pytest.mark.parity
@pytest.mark.parametrize('variant', recorded.TINY)
def test_a_real_checkpoint_gives_the_recorded_outputs(variant, tmp_path):
  config = recorded.tiny_config(variant)
  path = recorded.folder(variant) / 'model_final.pkl'
  model = deeplab_tf.build_model(config)
  prefix, account = convert.convert(model, 'mask2former', str(path), str(tmp_path / 'ckpt-0'))
  assert set(account.used) == set(variables_by_path(model)) and not account.initialized
  assert all(name == 'criterion.empty_weight' or name.endswith('.relative_position_index')
             for name in account.skipped)
  names = {name for names in account.used.values() for name in names}
  # The released files have the query features by an older name.
  assert 'sem_seg_head.predictor.query_feat.weight' in names
  assert len(names) + len(account.skipped) == len(read_detectron_weights(str(path)))
  restored = deeplab_tf.build_model(config)
  restore.load_checkpoint(restored, prefix)
  recorded.assert_outputs_are_recorded(restored, variant)


@pytest.fixture(name='tiny', scope='module')
def _tiny():
  """The model of a tiny ResNet checkpoint, and the weights."""
  weights = read_detectron_weights(str(recorded.folder('r50') / 'model_final.pkl'))
  return deeplab_tf.build_model(recorded.tiny_config('r50')), weights


def _values(model):
  return {path: variable.numpy() for path, variable in variables_by_path(model).items()}


@pytest.mark.parity
def test_kernels_are_transposed_and_joint_projections_are_cut(tiny):
  model, weights = tiny
  load_reference_weights(model, 'mask2former', weights)
  values = _values(model)
  np.testing.assert_array_equal(values['backbone/stages/1/0/conv2/kernel'],
                                weights['backbone.res3.0.conv2.weight'].transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(
      values['transformer_decoder/layers/2/cross_attention/key/kernel'],
      np.split(weights['sem_seg_head.predictor.transformer_cross_attention_layers.2.multihead_attn.'
                       'in_proj_weight'], 3)[1].T)
  np.testing.assert_array_equal(
      values['transformer_decoder/layers/0/self_attention/value/bias'],
      np.split(weights['sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.'
                       'in_proj_bias'], 3)[2])


@pytest.mark.parity
@pytest.mark.parametrize('older,newer', [
    (r'^sem_seg_head\.predictor\.static_query\.', 'sem_seg_head.predictor.query_feat.'),
    (r'^sem_seg_head\.pixel_decoder\.', 'sem_seg_head.'),
])
def test_other_names_of_the_same_weights_are_understood(tiny, older, newer):
  model, weights = tiny
  load_reference_weights(model, 'mask2former', weights)
  expected = _values(model)
  renamed = {re.sub(older, newer, name): value for name, value in weights.items()}
  assert set(renamed) != set(weights)
  for variable in model.variables:
    variable.assign(variable * 0)
  load_reference_weights(model, 'mask2former', renamed)
  for path, value in _values(model).items():
    np.testing.assert_array_equal(value, expected[path], path)


@pytest.mark.parity
def test_what_does_not_fit_is_named_and_changes_nothing(tiny):
  model, weights = tiny
  before = _values(model)
  wrong = {**weights, 'backbone.res6.0.conv1.weight': np.zeros(3)}
  del wrong['sem_seg_head.predictor.class_embed.bias']
  with pytest.raises(CheckpointError, match='1 missing: sem_seg_head.predictor.class_embed.bias .*'
                     '1 unknown: backbone.res6.0.conv1.weight'):
    load_reference_weights(model, 'mask2former', wrong)
  for path, value in _values(model).items():
    np.testing.assert_array_equal(value, before[path], path)


# === Backbones alone ===


def _torchvision(name: str) -> str:
  """Returns torchvision's name of a weight of a ResNet in Detectron2."""
  name = re.sub(r'^stem\.conv1\.norm\.', 'bn1.', name)
  name = re.sub(r'^stem\.conv1\.', 'conv1.', name)
  name = re.sub(r'^stem\.fc\.', 'fc.', name)
  name = re.sub(r'\.conv(\d)\.norm\.', r'.bn\1.', name)
  name = re.sub(r'\.shortcut\.norm\.', '.downsample.1.', name)
  name = re.sub(r'\.shortcut\.', '.downsample.0.', name)
  return re.sub(r'^res(\d)\.', lambda m: f'layer{int(m[1]) - 1}.', name)


def _classification(config):
  """Turns a config into that of a classifier with the same backbone."""
  config.model_options.classification.SetInParent()
  config.eval_dataset_options.Clear()
  config.eval_dataset_options.dataset = 'imagenet'
  return config


@pytest.mark.parity
@pytest.mark.parametrize('form', ['detectron2', 'torchvision'])
@pytest.mark.parametrize('whole', [False, True])
def test_a_resnet_alone_sets_the_backbone(tmp_path, form, whole):
  path = recorded.folder('r50') / 'backbone_imagenet_style.pkl'
  weights = read_detectron_weights(str(path))
  if form == 'torchvision':
    path = tmp_path / 'resnet50.pth'
    torch_files.save(path, {**{_torchvision(name): value for name, value in weights.items()},
                            'bn1.num_batches_tracked': np.array(7)})
  config = recorded.tiny_config('r50')
  model = deeplab_tf.build_model(config if whole else _classification(config))
  before = _values(model)
  account = convert.convert(model, 'mask2former', str(path), str(tmp_path / 'ckpt-0')).account
  after = _values(model)
  changed = {path for path, value in after.items() if not np.array_equal(value, before[path])}
  assert set(account.used) == changed == {path for path in after if path.startswith('backbone/')}
  assert set(account.initialized) == set(after) - changed
  np.testing.assert_array_equal(
      after['backbone/stages/2/0/shortcut/kernel'],
      weights['res4.0.shortcut.weight'].transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(after['backbone/stem/norm/moving_variance'],
                                weights['stem.conv1.norm.running_var'])
  lines = '\n'.join(account.lines())
  assert 'fc.weight' in lines
  assert ('as initialized: pixel_decoder (' in lines if whole
          else 'as initialized: classifier/' in lines)


@pytest.mark.parity
def test_a_swin_alone_sets_the_backbone_without_the_norms_of_its_features(tmp_path):
  path = recorded.folder('swin') / 'backbone_imagenet_style.pkl'
  model = deeplab_tf.build_model(recorded.tiny_config('swin'))
  account = convert.convert(model, 'mask2former', str(path), str(tmp_path / 'ckpt-0')).account
  norms = {f'backbone/output_norms/{i}/{name}' for i in range(4) for name in ('gamma', 'beta')}
  backbone = {path for path in _values(model) if path.startswith('backbone/')}
  assert set(account.used) == backbone - norms
  for path in norms:  # Not those of the classifier.
    assert (_values(model)[path] == path.endswith('gamma')).all()
  assert {'norm.weight', 'head.weight', 'layers.0.blocks.1.attn_mask'} <= set(account.skipped)


def test_a_resnet_of_deeplabs_form_has_a_stem_of_three_convolutions():
  weights = ('weight', *(f'norm.{name}' for name in ('weight', 'bias', 'running_mean',
                                                     'running_var')))
  variables = ('kernel', *(f'norm/{name}' for name in ('gamma', 'beta', 'moving_mean',
                                                       'moving_variance')))
  for number in (1, 2, 3):
    for weight, variable in zip(weights, variables):
      (origin,) = from_mask2former.origins(f'backbone/stem/conv{number}/{variable}')
      assert [piece.name for piece in origin.pieces] == [f'backbone.stem.conv{number}.{weight}']
  # Alone, as Detectron2's R-103.
  names = [f'stem.conv{number}.{weight}' for number in (1, 2, 3) for weight in weights]
  assert list(from_mask2former.weight_names([*names, 'stem.fc.weight']).values()) == [
      f'backbone.{name}' for name in names]


@pytest.mark.parametrize('names,expected', [
    (['conv1.weight', 'layer1.0.bn3.running_var', 'layer4.0.downsample.0.weight', 'fc.bias',
      'bn1.num_batches_tracked'],
     ['backbone.stem.conv1.weight', 'backbone.res2.0.conv3.norm.running_var',
      'backbone.res5.0.shortcut.weight']),
    (['stem.conv1.norm.bias', 'res2.0.shortcut.norm.weight', 'stem.fc.weight'],
     ['backbone.stem.conv1.norm.bias', 'backbone.res2.0.shortcut.norm.weight']),
    (['patch_embed.norm.weight', 'layers.0.blocks.1.norm1.weight', 'norm.weight', 'head.bias',
      'layers.0.blocks.1.attn_mask', 'layers.0.blocks.1.attn.relative_position_index'],
     ['backbone.patch_embed.norm.weight', 'backbone.layers.0.blocks.1.norm1.weight']),
    (['backbone.norm0.weight', 'sem_seg_head.layer_1.norm.bias', 'criterion.empty_weight',
      'sem_seg_head.predictor.static_query.weight', 'pixel_mean', 'pixel_std'],
     ['backbone.norm0.weight', 'sem_seg_head.pixel_decoder.layer_1.norm.bias',
      'sem_seg_head.predictor.query_feat.weight']),
], ids=['torchvision', 'detectron2', 'swin', 'maskformer'])
def test_weights_have_the_newest_names_and_what_is_none_is_left_out(names, expected):
  assert list(from_mask2former.weight_names(names).values()) == expected
