"""Mask2Former equals the released code: features, all predictions, groups of the optimizer."""

import json

import mask2former_checkpoints as recorded
import numpy as np
import pytest
import shared

import deeplab_tf
from deeplab_tf.checkpoints import from_mask2former, load_reference_weights
from deeplab_tf.config import load_config
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.models import mask2former
from deeplab_tf.protos import trainer_pb2
from deeplab_tf.structures import split_layers

pytestmark = pytest.mark.parity

# Tolerances of the recorded data: float32 in another order of operations differs by 3e-5.
_MASKS, _CLASSES = 2e-4, 2e-5


def _recipe_weights(descriptions):
  recipe = shared.recipe()
  return {w['name']: recipe.weight(w.get('seed', w['name']), w['shape'], w['role'],
                                   w.get('fan_in'))
          for w in descriptions if w['role'] != 'computed'}


def _nhwc(array):
  return np.moveaxis(array, -3, -1)


def _check(model, images, expected, step=1):
  """Compares features, mask features and all predictions.

  Args:
    model: The network.
    images: float32 [batch, height, width, 3].
    expected: Name -> recorded array.
    step: Every how many channels of features are recorded.
  """
  features = model.backbone(images)
  decoded = model.pixel_decoder(features)
  found = {**features, 'mask_features': decoded.mask_features,
           **{f'multi_scale_{i}': level for i, level in enumerate(decoded.levels)}}
  for name, value in found.items():
    array = _nhwc(expected[name])
    np.testing.assert_allclose(value[..., ::step], array, atol=2e-5 * np.abs(array).max(),
                               err_msg=name)
  layers = split_layers(model(images, all_predictions=True))
  masks = expected['mask_logits']
  queries = slice(None, None, layers[0]['mask_logits'].shape[-1] // masks.shape[2])
  assert len(layers) == len(masks) == len(expected['class_logits'])
  for i, layer in enumerate(layers):
    np.testing.assert_allclose(layer['class_logits'], expected['class_logits'][i], atol=_CLASSES,
                               err_msg=f'prediction {i}')
    np.testing.assert_allclose(layer['mask_logits'][..., queries], _nhwc(masks[i]), atol=_MASKS,
                               err_msg=f'prediction {i}')
  return layers


@pytest.fixture(name='tiny', scope='module', params=recorded.TINY)
def fixture_tiny(request):
  """Returns a folder with a small checkpoint of the released code, and its network."""
  folder = recorded.folder(request.param)
  model = deeplab_tf.build_model(recorded.tiny_config(request.param))
  descriptions = json.loads((folder / 'weights.json').read_text())['weights']
  load_reference_weights(model, 'mask2former', _recipe_weights(descriptions))
  return folder, model


def test_a_small_network_gives_all_recorded_outputs(tiny):
  folder, model = tiny
  expected = dict(np.load(folder / 'expected.npz'))
  _check(model, _nhwc(expected['network_input_nchw']), expected)


def test_rate_and_weight_decay_of_every_parameter_are_recorded_ones(tiny):
  folder, model = tiny
  expected = json.loads((folder / 'expected.json').read_text())['train_step']
  expected = expected['lr_and_weight_decay_by_parameter']
  paths = {id(v): path for path, v in variables_by_path(model).items()}
  found = {}
  for group in mask2former.parameter_groups(
      model, trainer_pb2.SolverOptions(backbone_learning_rate_multiplier=0.1)):
    for variable in group.variables:
      (origin,) = from_mask2former.origins(paths[id(variable)], model)
      found[origin.names[0]] = [1e-4 * group.rate, 0.05 if group.decays else 0.0]
  assert set(found) == set(expected)
  for name, values in expected.items():
    np.testing.assert_allclose(found[name], values, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('variant,backbone', [
    ('r50', 'name: "torchvision_resnet50" resnet { frozen_batch_norm: true }'),
    ('swin_tiny', 'name: "swin_tiny"')])
def test_the_whole_network_gives_all_recorded_outputs(variant, backbone, tmp_path):
  path = tmp_path / 'config.textproto'
  path.write_text(f'model_options {{ backbone {{ {backbone} }} mask2former {{}} }} '
                  'eval_dataset_options { dataset: "coco_panoptic" }')
  model = deeplab_tf.build_model(load_config(path))
  load_reference_weights(model, 'mask2former', _recipe_weights(recorded.released_weights(variant)))
  folder = shared.path('parity', 'mask2former')
  arrays = np.load(folder / f'outputs_{variant}.npz')
  for case, description in json.loads((folder / f'outputs_{variant}.json').read_text()).items():
    images = np.stack([shared.recipe().image(name, *description['input_shape_nhwc'][1:3])
                       for name in description['image_names']])
    expected = {name.removeprefix(f'{case}/'): arrays[name] for name in arrays
                if name.startswith(f'{case}/')}
    expected['mask_logits'] = expected['mask_logits_all']
    layers = _check(model, images, expected, description['channel_step_of_features'])
    np.testing.assert_allclose(layers[-1]['mask_logits'], _nhwc(expected['mask_logits_last']),
                               atol=_MASKS)
