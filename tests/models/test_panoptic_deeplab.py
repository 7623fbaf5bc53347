"""Panoptic-DeepLab: any size, every option, gradients, configs."""

import model_battery
import numpy as np
import pytest
import shared
import tensorflow as tf
import tiny_backbones
import tiny_centers

from deeplab_tf import models
from deeplab_tf.config import load_config
from deeplab_tf.config_text import ConfigError
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.models import panoptic_deeplab
from deeplab_tf.structures import SemanticPrediction


def _config(tmp_path, *overrides):
  return load_config(tiny_centers.write_config(tmp_path), overrides)


def _parts(config):
  info = catalog.from_config(config)
  return info, models.build_model(config), panoptic_deeplab.build_criterion(config, info)


def _batch(config, info):
  return next(iter(pipeline.train_dataset(config, info, 'center', seed=0)))


class TestPanopticDeepLab(model_battery.ModelBattery):
  CONFIG = tiny_centers.CONFIG
  OPTIONS = {
      'as it is': '',
      'axial backbone': 'backbone { name: "max_deeplab_s_backbone" }',
      'wide residual network': 'backbone { name: "wide_resnet41" use_squeeze_and_excite: true }',
      'standard convolutions': 'decoder { decoder_conv_type: "standard_conv" } panoptic_deeplab { '
                               'instance { center_head { head_conv_type: "standard_conv" } } }',
      **tiny_backbones.OPTIONS,
  }
  # The decoders take the features of the other stages.
  INVARIANT = (*model_battery.ModelBattery.INVARIANT,
               'output_norms/2/gamma', 'output_norms/2/beta')

  def shapes(self, network, size):
    quarter = [-(-n // 4) for n in size]
    return {'semantic_logits': [*quarter, network.info.num_classes],
            'center_heatmap': [*quarter, 1], 'center_offsets': [*quarter, 2]}


def test_without_a_decoder_of_its_own_the_instance_branch_has_that_of_the_semantic(tmp_path):
  config = _config(tmp_path)
  assert models.build_model(config).instance_decoder.channels == 8
  config.model_options.panoptic_deeplab.instance.ClearField('instance_decoder_override')
  config.model_options.panoptic_deeplab.instance.ClearField('low_level_override')
  network = model_battery.build(config)
  assert network.model.instance_decoder.channels == network.model.semantic_decoder.channels == 16
  idle = model_battery.idle_variables(network, network.batch())
  assert not [path for path in idle if not path.endswith('norm_similarity/beta')], idle


def test_a_semantic_model_has_no_instance_branch(tmp_path):
  config = _config(tmp_path, tiny_centers.SEMANTIC)
  info, model, criterion = _parts(config)
  images, targets = _batch(config, info)
  outputs = model(images, training=True)
  assert set(outputs) == {'semantic_logits'}
  assert set(criterion(outputs, targets).losses) == {'semantic_loss'}
  assert panoptic_deeplab.last_layers(model) == {
      'semantic': [model.semantic_head.last], 'instance': []}
  postprocess = panoptic_deeplab.build_postprocessor(config, info)
  assert postprocess(outputs, tiny_centers.CROP).segment_ids.shape == [2, len(info.class_ids)]


@pytest.mark.parametrize('backbone', [
    '', 'model_options { backbone { name: "max_deeplab_s_backbone" } }'],
    ids=['Panoptic-DeepLab', 'Axial-DeepLab'])
def test_the_task_semantic_trains_the_semantic_branch(tmp_path, backbone):
  network = model_battery.build(_config(
      tmp_path, tiny_centers.SEMANTIC, 'task: SEMANTIC', backbone))
  images, targets = network.batch()
  # Things are told apart by their class only, and have no centers.
  assert set(np.unique(targets.semantic_map)) - {network.info.ignore_label} <= set(
      network.info.class_ids) and not network.info.thing_class_ids
  assert not targets.offset_weights.numpy().any() and not targets.center_heatmap.numpy().any()
  outputs = network.model(images, training=True)
  found = network.criterion(outputs, targets)
  assert set(found.losses) == {'semantic_loss'} and (found.total.numpy() > 0).all()
  assert not [path for path in model_battery.idle_variables(network, (images, targets))
              if not path.endswith('norm_similarity/beta')]
  postprocess = network.architecture.build_postprocessor(network.config, network.info)
  prediction = postprocess(outputs, tiny_centers.CROP)
  assert isinstance(prediction, SemanticPrediction)
  assert prediction.semantic_map.shape == [2, *tiny_centers.CROP]


@pytest.mark.parametrize('overrides,words', [
    (('task: SEMANTIC',), 'task is SEMANTIC and .*instance.enable is true: .*set enable to false'),
    ((tiny_centers.SEMANTIC, 'task: SEMANTIC train_dataset_options { '
      'increase_small_instance_weights: true }'), 'increase_small_instance_weights is true'),
    (('task: INSTANCE',), 'task is INSTANCE: model panoptic_deeplab does PANOPTIC or SEMANTIC'),
])
def test_a_task_that_contradicts_the_model_is_one_line(tmp_path, overrides, words):
  with pytest.raises(ConfigError, match=words) as error:
    models.build_model(_config(tmp_path, *overrides))
  assert '\n' not in str(error.value)


def test_what_cannot_be_is_one_line(tmp_path):
  config = _config(tmp_path, 'model_options { panoptic_deeplab { instance { enable: false } } }')
  with pytest.raises(ConfigError, match='center_loss is set and .*instance.enable is false'):
    panoptic_deeplab.build_criterion(config, catalog.from_config(config))
  with pytest.raises(ConfigError, match='center_loss.name is "l2": allowed are \'mse\''):
    _config(tmp_path, 'trainer_options { loss_options { center_loss { name: "l2" } } }')
  with pytest.raises(ConfigError, match='keep_k_centers is 0: it must be at least 1'):
    _config(tmp_path, 'evaluator_options { keep_k_centers: 0 }')
  config = _config(tmp_path)
  config.model_options.panoptic_deeplab.instance.ClearField('center_head')
  with pytest.raises(ConfigError, match='instance.center_head.head_channels is not set'):
    models.build_model(config)
  config = _config(tmp_path, 'model_options { decoder { feature_key: "res9" } }')
  with pytest.raises(ValueError, match='unknown feature_key "res9": the backbone has'):
    models.build_model(config)
  config = _config(tmp_path, 'model_options { backbone { name: "max_deeplab_x" } }')
  with pytest.raises(ValueError, match='backbone.name is "max_deeplab_x": there are'):
    models.build_model(config)


def test_variable_groups(tmp_path):
  _, model, _ = _parts(_config(tmp_path))
  paths = {id(v): path for path, v in variables_by_path(model).items()}
  backbone = {paths[id(v)] for v in model_battery.backbone_variables(
      panoptic_deeplab.ARCHITECTURE, model)}
  assert backbone and all(p.startswith('backbone/') for p in backbone)
  assert len(panoptic_deeplab.inference_variables(model)) == len(model.trainable_variables)
  last = [layer.kernel.shape[-1] for layers in panoptic_deeplab.last_layers(model).values()
          for layer in layers]
  assert last == [10, 1, 2]


# Backbones and data sets of published configs that are not supported.
_UNSUPPORTED = ('mobilenet_v3', 'kitti', 'motchallenge')
_QUICK = ('none', 'coco/panoptic_deeplab/resnet50_beta_os16.textproto',
          'cityscapes/axial_deeplab/max_deeplab_s_backbone_os16.textproto',
          'cityscapes/panoptic_deeplab/resnet50_os32_semseg.textproto')


def _published():
  folder = shared.folder() / 'parity' / 'deeplab2' / 'configs'
  paths = sorted(folder.glob('*/panoptic_deeplab/*.textproto'))
  paths += sorted(folder.glob('*/axial_deeplab/*.textproto'))
  names = [str(path.relative_to(folder)) for path in paths]
  names = [name for name in names if not any(part in name for part in _UNSUPPORTED)] or ['none']
  # One of each kind; building all of them takes minutes.
  return [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in names]


@pytest.mark.parity
@pytest.mark.parametrize('name', _published())
def test_published_configs_build_unchanged(name):
  config = load_config(shared.path('parity', 'deeplab2', 'configs', name))
  info = catalog.from_config(config)
  with tf.Graph().as_default():  # Variables without values.
    model = models.build_model(config)
  assert panoptic_deeplab.build_criterion(config, info) is not None
  postprocess = panoptic_deeplab.build_postprocessor(config, info)
  assert postprocess.options.stuff_area_limit == (0 if 'semseg' in name else
                                               4096 if 'coco' in name else 2048)
  assert (model.instance_decoder is None) == ('semseg' in name)
  assert model.semantic_head.last.kernel.shape[-1] == info.num_classes
