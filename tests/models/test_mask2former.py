"""Mask2Former: any size, every option, gradients, groups of parameters, sizes of the paper."""

import model_battery
import numpy as np
import pytest
import tensorflow as tf
import tiny_backbones
import tiny_mask2former

import deeplab_tf
from deeplab_tf import pixel_decoders
from deeplab_tf.config import load_config
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.models import mask2former
from deeplab_tf.protos import trainer_pb2
from deeplab_tf.structures import split_layers
from deeplab_tf.user_errors import ConfigError


def _config(tmp_path, *overrides):
  return load_config(tiny_mask2former.write_config(tmp_path), overrides)


class TestMask2Former(model_battery.ModelBattery):
  CONFIG = tiny_mask2former.CONFIG
  OPTIONS = {
      'as it is': '',
      'pre-norm, no projections': 'mask2former { hidden_channels: 64 pre_norm: true }',
      'projections, recomputed': 'mask2former { hidden_channels: 64 force_input_projection: true '
                                 'recompute_layers: true }',
      # Options that do not interact, together. With zero queries and self-attention first, the
      # projections of the first self-attention would have no gradient.
      'SMCA of the backbone, zero queries, dropout':
          'mask2former { transformer_decoder { cross_attention: SMCA scales: BACKBONE_STRIDE_32 '
          'query_features: ZERO dropout_rate: 0.1 } }',
      'mask pooling of all scales, queries without loss, self-attention first':
          'mask2former { transformer_decoder { cross_attention: MASK_POOLING scales: CONCATENATED '
          'query_features: LEARNED_WITHOUT_LOSS self_attention_first: true } }',
      'attention without mask of stride 8':
          'mask2former { transformer_decoder { cross_attention: FULL scales: STRIDE_8 } }',
      'masked attention of stride 32, self-attention first':
          'mask2former { transformer_decoder { scales: STRIDE_32 self_attention_first: true } }',
      'FPN with an encoder': 'mask2former { pixel_decoder { kind: FPN num_encoder_layers: 1 '
                             'dropout_rate: 0.1 } }',
      'Semantic FPN': 'mask2former { pixel_decoder { kind: SEMANTIC_FPN } }',
      'BiFPN': 'mask2former { pixel_decoder { kind: BIFPN num_fusion_layers: 2 } }',
      'FaPN': 'mask2former { pixel_decoder { kind: FAPN } }',
  }
  # A bias of keys adds the same to all logits of a query. The embedding and FaPN's guides only
  # enter sampling offsets and attention weights, whose kernels are zero in a new model.
  INVARIANT = ('attention/key/bias', 'pixel_decoder/level_embedding', 'guide/kernel',
               'guide/norm/gamma', 'guide/norm/beta')
  STOCHASTIC = tiny_mask2former.SWIN

  def shapes(self, network, size):
    return {'mask_logits': [*(-(-n // 4) for n in size), 12],
            'class_logits': [12, len(network.info.class_ids) + 1],
            'pixel_features': [*(-(-n // 4) for n in size), 16]}

  def test_all_predictions_are_returned_in_training_and_on_request(self, network):
    images = tf.random.stateless_normal([1, 40, 50, 3], [0, 1])
    last = network.model(images)
    found = network.model(images, all_predictions=True)
    assert len(split_layers(network.model(images, training=True))) == 4
    assert set(found) == set(last) | {
        f'{name}_{i}' for name in ('class_logits', 'mask_logits') for i in range(3)}
    for name, value in last.items():
      np.testing.assert_allclose(found[name], value, atol=1e-5)

  def test_the_last_layer_is_the_class_head(self, network):
    (layer,) = network.architecture.last_layers(network.model)['semantic']
    assert layer.kernel.shape == (32, len(network.info.class_ids) + 1)
    assert list(network.architecture.last_layers(network.model)) == ['semantic']


@pytest.mark.parametrize('overrides', [
    (), (tiny_mask2former.SWIN,),
    ('model_options { mask2former { transformer_decoder { cross_attention: SMCA scales: STRIDE_8 '
     'query_features: ZERO } } }',)], ids=['resnet', 'swin', 'SMCA'])
def test_norms_and_embeddings_do_not_decay(tmp_path, overrides):
  model = deeplab_tf.build_model(_config(tmp_path, *overrides))
  paths = {id(v): path for path, v in variables_by_path(model).items()}
  solver = trainer_pb2.SolverOptions(backbone_learning_rate_multiplier=0.5)
  groups = mask2former.parameter_groups(model, solver)
  rates = {paths[id(v)]: group.rate for group in groups for v in group.variables}
  decays = {paths[id(v)]: group.decays for group in groups for v in group.variables}
  assert {path.startswith('backbone/'): rate for path, rate in rates.items()} == {
      True: 0.5, False: 1.0}
  for path, decay in decays.items():
    is_free = (path.endswith(('gamma', 'beta', 'position_bias'))
               or path.split('/')[-1].startswith('query_')
               or path == 'transformer_decoder/level_embedding')
    assert decay != is_free, path
  assert decays['pixel_decoder/level_embedding'] and decays['transformer_decoder/class_head/bias']


def test_a_backbone_without_these_strides_is_one_line(tmp_path):
  config = _config(tmp_path, 'clear: "model_options.backbone.resnet" model_options { backbone { '
                   'name: "resnet50" output_stride: 16 } }')
  with pytest.raises(ConfigError) as error:
    deeplab_tf.build_model(config)
  assert str(error.value) == (
      'model_options.backbone.name is "resnet50": mask2former needs features of stride 4, '
      '8, 16 and 32, and the backbone has res1 of stride 2, res2 of stride 4, res3 of stride 8, '
      'backbone_output of stride 16; set output_stride to 32 or use a backbone such as '
      'torchvision_resnet50')


def test_an_encoder_has_no_pre_norm(tmp_path):
  config = _config(tmp_path, 'model_options { mask2former { pre_norm: true pixel_decoder { '
                   'kind: FPN num_encoder_layers: 2 } } }')
  with pytest.raises(ConfigError) as error:
    deeplab_tf.build_model(config)
  assert str(error.value) == (
      'model_options.mask2former.pre_norm is true and pixel_decoder.num_encoder_layers is 2: the '
      'encoder has its layer norms after the residual connections alone; set pre_norm to false, or '
      'num_encoder_layers to 0')


def test_options_of_another_mask_loss_are_refused(tmp_path):
  override = 'trainer_options { loss_options { mask2former_loss { focal_gamma: 1.5 %s } } }'
  with pytest.raises(ConfigError) as error:
    mask2former.build_criterion(_config(tmp_path, override % ''), None)
  assert str(error.value) == (
      'trainer_options.loss_options.mask2former_loss.focal_gamma is set, and mask_loss is '
      'CROSS_ENTROPY: remove it or set mask_loss to FOCAL')
  assert mask2former.build_criterion(_config(tmp_path, override % 'mask_loss: FOCAL'), None)


@pytest.mark.parametrize('kind, name', [
    ('DEFORMABLE_ATTENTION', 'resnet50_beta'), ('FPN', 'resnet50'),
    ('SEMANTIC_FPN', 'max_deeplab_s'), ('BIFPN', 'full_axial_resnet'), ('FAPN', 'max_deeplab_l')])
def test_every_pixel_decoder_takes_the_backbones_of_deeplab2(tmp_path, kind, name):
  model = deeplab_tf.build_model(_config(tmp_path, tiny_backbones.deeplab2(name), f"""
      model_options {{ mask2former {{ pixel_decoder {{ kind: {kind} }} }} }}"""))
  outputs = model(tf.random.stateless_normal([1, 50, 41, 3], [0, 1]))
  assert outputs['mask_logits'].shape == [1, 13, 11, 12]
  for name, value in outputs.items():
    assert np.isfinite(value).all(), name


def test_the_last_activated_feature_of_each_stride_is_read(tmp_path, monkeypatch):
  original, read = pixel_decoders.build, []

  def build(options, features, **others):
    read.extend((feature.name, feature.stride) for feature in features)
    return original(options, features, **others)

  monkeypatch.setattr(pixel_decoders, 'build', build)
  with tf.Graph().as_default():  # Variables without values.
    deeplab_tf.build_model(_config(tmp_path, tiny_backbones.deeplab2('max_deeplab_l')))
  # Its decoder walks to stride 4 and back; the features on the way are before their activation.
  assert read == [('res2', 4), ('res3', 8), ('res4', 16), ('backbone_output', 32)]


# === Sizes ===

# Trainable parameters with COCO's 133 classes, those of the released code.
SIZES = {
    'torchvision_resnet50': 43_983_878,
    'torchvision_resnet101': 62_923_782,
    'swin_tiny': 47_435_264,
    'swin_small': 68_753_168,
    'swin_base': 106_917_822,
    'swin_large': 215_535_610,
}


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name in ('torchvision_resnet50', 'swin_tiny')
                 else pytest.mark.slow) for name in SIZES])
def test_counts_are_those_of_the_released_code(tmp_path, name):
  path = tmp_path / 'full.textproto'
  resnet = 'resnet { frozen_batch_norm: true }' if 'resnet' in name else ''
  queries = 200 if name == 'swin_large' else 100
  path.write_text(f'''
      model_options {{
        backbone {{ name: "{name}" {resnet} }} mask2former {{ num_queries: {queries} }}
      }}
      train_dataset_options {{ dataset: "coco_panoptic" crop_size: [64, 64] }}
      eval_dataset_options {{ dataset: "coco_panoptic" crop_size: [64, 64] }}''', encoding='utf-8')
  config = load_config(path)
  with tf.Graph().as_default():  # Variables without values.
    model = deeplab_tf.build_model(config)
  assert sum(v.shape.num_elements() for v in model.trainable_variables) == SIZES[name]
