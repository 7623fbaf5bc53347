"""The classifier that pre-trains backbones."""

import pathlib
import re

import model_battery
import numpy as np
import pytest
import tensorflow as tf
import tiny_backbones
import tiny_classification

import deeplab_tf
from deeplab_tf import models
from deeplab_tf.classes import ImageClasses
from deeplab_tf.data import catalog
from deeplab_tf.layers.variable_paths import variables_by_path

IMAGES = tf.random.stateless_normal([3, 33, 49, 3], [0, 1])


@pytest.fixture(name='config', scope='module')
def fixture_config(tmp_path_factory):
  return deeplab_tf.load_config(
      tiny_classification.write_experiment(tmp_path_factory.mktemp('classification')))


@pytest.fixture(name='model', scope='module')
def fixture_model(config):
  return deeplab_tf.build_model(config)


class TestClassifier(model_battery.ModelBattery):
  CONFIG = tiny_classification.CONFIG
  OPTIONS = {'as it is': '', **tiny_backbones.OPTIONS}
  # The classifier takes the last feature; those of the other stages are for decoders.
  INVARIANT = (*model_battery.ModelBattery.INVARIANT,
               *(f'output_norms/{i}/{name}' for i in range(3) for name in ('gamma', 'beta')))
  SIZES = ((33, 33), (32, 49), (33, 65), (50, 41))

  def prepare(self, folder):
    tiny_classification.write_experiment(folder)

  def shapes(self, network, size):
    return {'class_logits': [2]}


def test_logits_are_a_linear_map_of_the_mean_of_the_last_feature(model):
  logits = model(IMAGES)['class_logits']
  assert logits.shape == (3, 2) and logits.dtype == tf.float32
  features = model.backbone(IMAGES)
  pooled = features['backbone_output'].numpy().mean((1, 2))
  kernel, bias = (v.numpy() for v in model.classifier.variables)
  np.testing.assert_allclose(logits, pooled @ kernel + bias, rtol=1e-4, atol=1e-6)


def test_parts_are_what_the_trainer_asks_for(config, model):
  architecture = models.architecture(config)
  own = {id(v) for v in model_battery.backbone_variables(architecture, model)}
  paths = [path for path, v in variables_by_path(model).items() if id(v) in own]
  assert paths and all(path.startswith('backbone/') for path in paths)
  assert len(paths) == len(model.trainable_variables) - 2
  assert len(architecture.inference_variables(model)) == len(model.trainable_variables)
  assert architecture.last_layers(model) == {'semantic': [model.classifier]}


def test_the_postprocessing_lists_the_most_probable_classes(config):
  architecture = models.architecture(config)
  logits = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
  info = ImageClasses('x', tuple('abcdefghi'))
  for static in (False, True):
    postprocess = architecture.build_postprocessor(config, info, static)
    prediction = postprocess({'class_logits': tf.constant(logits)}, (33, 33))
    np.testing.assert_array_equal(prediction.class_index, np.argsort(-logits)[:, :5])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(prediction.score, -np.sort(-probabilities)[:, :5], rtol=1e-5)
  few = architecture.build_postprocessor(config, catalog.from_config(config))
  assert few({'class_logits': tf.constant(logits[:, :2])}, (33, 33)).score.shape == (4, 2)


_CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'


# Cityscapes for ResNets, whose batch norms are trained there.
@pytest.mark.parametrize('name', [
    'coco/max_deeplab/max_deeplab_s_res641', 'cityscapes/mask2former/panoptic_r50',
    'coco/mask2former/panoptic_swin_tiny',
    *(pytest.param(name, marks=pytest.mark.slow) for name in (
        'coco/max_deeplab/max_deeplab_l_res1025', 'coco/max_deeplab/ablation_baseline_res641',
        'coco/max_deeplab/ablation_axial_res641', 'coco/max_deeplab/ablation_decoder_l2_res641',
        'cityscapes/mask2former/panoptic_r101', 'coco/mask2former/panoptic_swin_small',
        'coco/mask2former/panoptic_swin_base',
        'coco/mask2former/panoptic_swin_large'))])
def test_the_config_that_a_header_names_pre_trains_the_whole_backbone(name):
  path = _CONFIGS / f'{name}.textproto'
  named = re.search(r'configs/imagenet/\w+\.textproto', path.read_text())[0]
  shapes = model_battery.backbone_shapes
  assert shapes(_CONFIGS.parent / named) == shapes(path)
