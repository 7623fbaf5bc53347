"""Released checkpoints of MaskFormer: every weight, by both forms of its name, has a variable."""

import pickle
import re

import mask2former_configs
import numpy as np
import pytest
import tensorflow as tf
import tiny_mask2former

import deeplab_tf
from deeplab_tf.checkpoints import convert, from_mask2former, load_reference_weights
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.user_errors import CheckpointError

_CONFIGS = mask2former_configs.CONFIGS
_PIXELS, _PREDICTOR = 'sem_seg_head.pixel_decoder', 'sem_seg_head.predictor'
_TINY = """
model_options {
  mask2former {
    mask_channels: 32 num_layers: 2
    pixel_decoder { kind: FPN channels: 32 num_encoder_layers: 2 }
    transformer_decoder {
      cross_attention: FULL scales: BACKBONE_STRIDE_32 query_features: ZERO
      self_attention_first: true dropout_rate: 0.1
    }
  }
}
"""


def _attention(name, c):
  return {f'{name}.in_proj_weight': [3 * c, c], f'{name}.in_proj_bias': [3 * c],
          f'{name}.out_proj.weight': [c, c], f'{name}.out_proj.bias': [c]}


def _linear(name, outputs, inputs):
  return {f'{name}.weight': [outputs, inputs], f'{name}.bias': [outputs]}


def _norm(name, c):
  return {f'{name}.weight': [c], f'{name}.bias': [c]}


def _head(stages, classes, c=256, hidden=2048, queries=100, layers=6, encoder_layers=0):
  """Returns name -> shape of the head's weights; `stages` are the channels of res2 to res5."""
  found, last = {}, stages[3]
  if encoder_layers:
    found.update({f'{_PIXELS}.input_proj.weight': [c, last, 1, 1],
                  f'{_PIXELS}.input_proj.bias': [c]})
    last = c
  layer_groups = [(f'{_PIXELS}.transformer.encoder.layers.{i}', ('self_attn',))
                  for i in range(encoder_layers)]
  layer_groups += [(f'{_PREDICTOR}.transformer.decoder.layers.{i}', ('self_attn', 'multihead_attn'))
                   for i in range(layers)]
  for name, attentions in layer_groups:
    for number, attention in enumerate(attentions, 1):
      found.update(_attention(f'{name}.{attention}', c))
      found.update(_norm(f'{name}.norm{number}', c))
    found.update({**_norm(f'{name}.norm{len(attentions) + 1}', c),
                  **_linear(f'{name}.linear1', hidden, c), **_linear(f'{name}.linear2', c, hidden)})
  for k in (1, 2, 3):
    found.update({f'{_PIXELS}.adapter_{k}.weight': [c, stages[k - 1], 1, 1],
                  **_norm(f'{_PIXELS}.adapter_{k}.norm', c)})
  for k, inputs in ((1, c), (2, c), (3, c), (4, last)):
    found.update({f'{_PIXELS}.layer_{k}.weight': [c, inputs, 3, 3],
                  **_norm(f'{_PIXELS}.layer_{k}.norm', c)})
  found.update({f'{_PIXELS}.mask_features.weight': [c, c, 3, 3],
                f'{_PIXELS}.mask_features.bias': [c],
                **_norm(f'{_PREDICTOR}.transformer.decoder.norm', c),
                f'{_PREDICTOR}.query_embed.weight': [queries, c],
                **_linear(f'{_PREDICTOR}.class_embed', classes + 1, c)})
  for i in range(3):
    found.update(_linear(f'{_PREDICTOR}.mask_embed.layers.{i}', c, c))
  if not encoder_layers:
    found.update({f'{_PREDICTOR}.input_proj.weight': [c, last, 1, 1],
                  f'{_PREDICTOR}.input_proj.bias': [c]})
  return found


@pytest.mark.parametrize('config,stages,classes,encoder_layers', [
    ('coco/maskformer/panoptic_r50', (256, 512, 1024, 2048), 133, 6),
    ('ade20k/maskformer/semantic_r50', (256, 512, 1024, 2048), 150, 0),
    ('coco/maskformer/panoptic_swin_tiny', (96, 192, 384, 768), 133, 0),
])
def test_every_weight_of_a_released_head_has_one_variable(config, stages, classes, encoder_layers):
  shapes = _head(stages, classes, encoder_layers=encoder_layers)
  with tf.Graph().as_default():  # Variables without values.
    model = deeplab_tf.build_model(deeplab_tf.load_config(_CONFIGS / f'{config}.textproto'))
  arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
  left = dict.fromkeys(shapes, 1.0)
  for path, variable in variables_by_path(model).items():
    if path.startswith('backbone/'):
      continue
    (origin,) = from_mask2former.origins(path, model)
    assert [n for n in origin.value(arrays).shape if n > 1] == [
        n for n in variable.shape if n > 1], path
    for piece in origin.pieces:
      left[piece.name] -= 1 / piece.count
  assert all(abs(share) < 1e-6 for share in left.values()), left


@pytest.fixture(name='tiny', scope='module')
def fixture_tiny(tmp_path_factory):
  """Returns the config of a tiny MaskFormer, and the weights of a checkpoint of it."""
  path = tiny_mask2former.write_config(tmp_path_factory.mktemp('config'))
  config = deeplab_tf.load_config(path, [_TINY])
  model = deeplab_tf.build_model(config)
  shapes = _head((16, 32, 64, 128), 9, 32, 48, 12, 2, 2)
  for variable_path, variable in variables_by_path(model).items():
    if variable_path.startswith('backbone/'):
      (origin,) = from_mask2former.origins(variable_path, model)
      shape = variable.shape.as_list()
      shapes[origin.names[0]] = [shape[3], shape[2], *shape[:2]] if len(shape) == 4 else shape
  rng = np.random.default_rng(0)
  weights = {name: 0.1 * rng.standard_normal(shape).astype(np.float32)
             for name, shape in shapes.items()}
  for name in weights:
    if name.endswith('running_var'):
      weights[name] = np.abs(weights[name]) + 1
  return config, {**weights, 'criterion.empty_weight': np.ones(10, np.float32)}


@pytest.mark.parametrize('prefix', ['sem_seg_head.pixel_decoder.', 'sem_seg_head.'])
def test_both_forms_of_the_names_are_read_from_a_file(tiny, prefix, tmp_path):
  config, weights = tiny
  renamed = {name.replace('sem_seg_head.pixel_decoder.', prefix): w for name, w in weights.items()}
  assert any(name.startswith(f'{prefix}layer_4.') for name in renamed)
  (tmp_path / 'model.pkl').write_bytes(pickle.dumps({'model': renamed, '__author__': 'MaskFormer'}))
  model = deeplab_tf.build_model(config)
  account = convert.convert(model, 'mask2former', str(tmp_path / 'model.pkl'),
                            str(tmp_path / 'ckpt')).account
  values = variables_by_path(model)
  assert set(account.used) == set(values) and account.skipped == ['criterion.empty_weight']
  there = 'sem_seg_head.predictor.transformer.decoder.layers.1'
  for path, expected in {
      # norm1 to norm3 are those of self-attention, cross-attention and feed-forward network.
      'transformer_decoder/layers/1/self_norm/gamma': weights[f'{there}.norm1.weight'],
      'transformer_decoder/layers/1/cross_norm/gamma': weights[f'{there}.norm2.weight'],
      'transformer_decoder/layers/1/feed_forward_norm/beta': weights[f'{there}.norm3.bias'],
      'transformer_decoder/layers/1/cross_attention/key/kernel':
          weights[f'{there}.multihead_attn.in_proj_weight'][32:64].T,
      'transformer_decoder/layers/1/self_attention/output_projection/kernel':
          weights[f'{there}.self_attn.out_proj.weight'].T,
      'pixel_decoder/laterals/0/kernel':  # Of stride 16.
          weights[f'{_PIXELS}.adapter_3.weight'].transpose(2, 3, 1, 0),
      'pixel_decoder/outputs/0/norm/beta': weights[f'{_PIXELS}.layer_4.norm.bias'],
      'pixel_decoder/encoder/encoder_layers/1/attention/value/bias':
          weights[f'{_PIXELS}.transformer.encoder.layers.1.self_attn.in_proj_bias'][64:],
      'pixel_decoder/encoder/encoder_layers/0/norm2/gamma':
          weights[f'{_PIXELS}.transformer.encoder.layers.0.norm2.weight'],
  }.items():
    np.testing.assert_array_equal(values[path], expected, path)


def test_a_missing_weight_is_named_as_in_maskformers_files(tiny):
  config, weights = tiny
  name = f'{_PREDICTOR}.transformer.decoder.layers.0.norm3.bias'
  model = deeplab_tf.build_model(config)
  with pytest.raises(CheckpointError, match=re.escape(f'1 missing: {name}')):
    load_reference_weights(model, 'mask2former', {k: w for k, w in weights.items() if k != name})
