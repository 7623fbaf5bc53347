"""Mask2Former equals the released code: features, all predictions, a training step."""

import collections
import json

import mask2former_checkpoints as recorded
import numpy as np
import pytest
import shared
import tensorflow as tf

import deeplab_tf
from deeplab_tf import mask_values, matching
from deeplab_tf.checkpoints import from_mask2former, load_reference_weights
from deeplab_tf.config import load_config
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.losses import mask2former as losses
from deeplab_tf.losses import point_sampling
from deeplab_tf.losses.mask_comparison import compare
from deeplab_tf.models import mask2former
from deeplab_tf.protos import trainer_pb2
from deeplab_tf.structures import OverlappingMaskTargets, split_layers
from deeplab_tf.training import optimizers, precision

pytestmark = pytest.mark.parity

# Tolerances of the recorded data: float32 in another order of operations differs by 3e-5.
_MASKS, _CLASSES = 2e-4, 2e-5


def _recipe_weights(descriptions):
  recipe = shared.recipe()
  return {w['name']: recipe.weight(w.get('seed', w['name']), w['shape'], w['role'],
                                   w.get('fan_in'))
          for w in descriptions if w['role'] != 'computed'}


def _copy_weights(source, target):
  """Gives a network the weights of another one of the same config."""
  values = variables_by_path(source)
  for path, variable in variables_by_path(target).items():
    variable.assign(values[path])


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
  """Returns a folder with a small checkpoint of the released code, its network and config."""
  folder = recorded.folder(request.param)
  config = recorded.tiny_config(request.param)
  model = deeplab_tf.build_model(config)
  descriptions = json.loads((folder / 'weights.json').read_text())['weights']
  load_reference_weights(model, 'mask2former', _recipe_weights(descriptions))
  return folder, model, config


def test_a_small_network_gives_all_recorded_outputs(tiny):
  folder, model, _ = tiny
  expected = dict(np.load(folder / 'expected.npz'))
  _check(model, _nhwc(expected['network_input_nchw']), expected)


def test_rate_and_weight_decay_of_every_parameter_are_recorded_ones(tiny):
  folder, model, _ = tiny
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


@pytest.fixture(name='whole', scope='module', params=['r50', 'swin_tiny'])
def fixture_whole(request, tmp_path_factory):
  """Returns the name and the config of a released network, and the recorded cases."""
  variant = request.param
  backbone = {'r50': 'name: "torchvision_resnet50" resnet { frozen_batch_norm: true }',
              'swin_tiny': 'name: "swin_tiny"'}[variant]
  path = tmp_path_factory.mktemp('config') / 'config.textproto'
  path.write_text(f'model_options {{ backbone {{ {backbone} }} mask2former {{}} }} '
                  'eval_dataset_options { dataset: "coco_panoptic" }')
  folder, cases = shared.path('parity', 'mask2former'), []
  arrays = np.load(folder / f'outputs_{variant}.npz')
  for case, description in json.loads((folder / f'outputs_{variant}.json').read_text()).items():
    images = np.stack([shared.recipe().image(name, *description['input_shape_nhwc'][1:3])
                       for name in description['image_names']])
    expected = {name.removeprefix(f'{case}/'): arrays[name] for name in arrays
                if name.startswith(f'{case}/')}
    cases.append((images, expected, description['channel_step_of_features']))
  return variant, load_config(path), cases


def _whole_network(variant, config):
  model = deeplab_tf.build_model(config)
  load_reference_weights(model, 'mask2former', _recipe_weights(recorded.released_weights(variant)))
  return model


def test_the_whole_network_gives_all_recorded_outputs(whole):
  variant, config, cases = whole
  model = _whole_network(variant, config)
  for images, expected, step in cases:
    expected['mask_logits'] = expected['mask_logits_all']
    layers = _check(model, images, expected, step)
    np.testing.assert_allclose(layers[-1]['mask_logits'], _nhwc(expected['mask_logits_last']),
                               atol=_MASKS)


# === bfloat16 ===

# Classes are the same where the two best logits are further apart than this.
_GAP = 0.3


def _check_classes(model, images, expected_logits):
  """Compares the classes of the last prediction; returns the number of compared queries."""
  outputs = model(images)
  for name, value in outputs.items():
    assert np.isfinite(value).all(), name
  best = np.sort(expected_logits, -1)
  clear = best[..., -1] - best[..., -2] > _GAP
  found = np.argmax(tf.cast(outputs['class_logits'], tf.float32), -1)
  np.testing.assert_array_equal(found[clear], np.argmax(expected_logits, -1)[clear])
  return clear.sum()


def test_a_small_network_gives_the_same_classes_in_bfloat16(tiny):
  folder, model, _ = tiny
  config = recorded.tiny_config(folder.name.split('_')[-1])
  with precision.scope('BFLOAT16'):
    low = deeplab_tf.build_model(config)
  _copy_weights(model, low)
  expected = np.load(folder / 'expected.npz')
  assert _check_classes(low, _nhwc(expected['network_input_nchw']),
                        expected['class_logits'][-1]) > 2


def test_the_whole_network_gives_the_same_classes_in_bfloat16(whole):
  variant, config, cases = whole
  with precision.scope('BFLOAT16'):
    low = _whole_network(variant, config)
  for images, expected, _ in cases:
    assert _check_classes(low, images, expected['class_logits'][-1]) >= 20


# === A training step ===


def _targets(arrays):
  """Returns the recorded targets; rows beyond the masks of an image are not used."""
  classes = [arrays[f'train/target_labels_{i}'] for i in range(2)]
  rows = max(map(len, classes))
  masks = np.stack([np.pad(own := arrays[f'train/target_masks_{i}'],
                           ((0, rows - len(own)), (0, 0), (0, 0))) for i in range(2)])
  classes = np.stack([np.pad(own, (0, rows - len(own)), constant_values=-1) for own in classes])
  return OverlappingMaskTargets(mask_values.pack(np.moveaxis(masks, 1, -1)),
                                tf.constant(classes, tf.int32))


def _points(arrays, layers, targets):
  """Returns the recorded points: theirs are ordered by query, ours by mask."""
  found, is_mask = [], mask_values.are_masks(targets)
  for number, layer in enumerate(layers):
    matching_points = tf.constant(np.stack(
        [arrays[f'train/match_points_{number}_{i}'] for i in range(2)]))
    compared = compare(layer['class_logits'], targets.mask_classes,
                       point_sampling.sample(layer['mask_logits'], matching_points),
                       mask_values.at_points(targets, matching_points))
    costs = 2 * compared.classes + 5 * compared.masks + 5 * compared.dice
    query_of = matching.match(costs, is_mask, 'scipy').numpy()
    order = [(image, mask) for image, queries in enumerate(query_of)
             for mask in np.argsort(queries) if queries[mask] >= 0]
    kinds = []
    for kind in ('oversampled', 'rest'):
      recorded_points = arrays[f'train/loss_points_{kind}_{number}']
      own = np.full((*query_of.shape, *recorded_points.shape[1:]), 0.5, np.float32)
      own[tuple(np.transpose(order))] = recorded_points
      kinds.append(tf.constant(own))
    found.append(losses.Points(matching_points, *kinds))
  return found


@pytest.fixture(name='step', scope='module')
def fixture_step(tiny):
  """Returns what was recorded of the step, the losses, and (name, variable, gradient) of each."""
  folder, model, config = tiny
  arrays = np.load(folder / 'expected.npz')
  expected = json.loads((folder / 'expected.json').read_text())['train_step']
  images = np.stack([shared.recipe().image(name, *expected['hw'])
                     for name in expected['image_names']])
  targets = _targets(arrays)
  config.trainer_options.loss_options.mask2former_loss.num_points = expected['num_points']
  criterion = mask2former.build_criterion(config, model.dataset_info)
  with tf.GradientTape() as tape:
    outputs = model(images, training=True)
    points = _points(arrays, split_layers(outputs), targets)
    result = criterion.losses_at(points, outputs, targets, criterion.normalizers(targets))
  variables = {path: v for path, v in variables_by_path(model).items() if v.trainable}
  named = []
  for path, gradient in zip(variables, tape.gradient(result.total, list(variables.values()))):
    (origin,) = from_mask2former.origins(path, model)
    named.append((origin.names[0], variables[path], gradient))
  return expected, result, named


def _norms(named):
  """Returns name -> norm of (name, tensor); tensors of the same name are parts of one."""
  squares = collections.Counter()
  for name, tensor in named:
    squares[name] += np.sum(np.square(tensor, dtype=np.float64))
  return {name: square**0.5 for name, square in squares.items()}


def test_losses_and_the_gradient_of_every_parameter_are_recorded_ones(step):
  expected, result, named = step
  last = len(expected['losses_unweighted_by_layer']) // 3 - 1
  for name, value in expected['losses_unweighted_by_layer'].items():
    _, term, number = name.split('_')
    term = {'ce': 'class_loss'}.get(term, f'{term}_loss') + (
        '' if int(number) == last else f'_{number}')
    np.testing.assert_allclose(result.losses[term] / result.weights[term], value, rtol=1e-4)
  np.testing.assert_allclose(result.total, expected['total_weighted'], rtol=2e-5)

  found = _norms((name, gradient) for name, _, gradient in named)
  norms, total = expected['gradient_norms_before_clipping'], expected[
      'total_gradient_norm_before_clipping']
  assert set(found) == set(norms)
  np.testing.assert_allclose(np.linalg.norm(list(found.values())), total, rtol=1e-4)
  for name, norm in norms.items():
    # The true gradient of biases before a norm, and of keys' biases, is zero.
    np.testing.assert_allclose(found[name], norm, rtol=1e-3, atol=1e-6 * total, err_msg=name)


def test_the_update_of_every_parameter_is_the_recorded_one(tiny, step):
  """The first step of Adam is the rate times the sign of the gradient, or nearly so."""
  _, model, _ = tiny
  expected, _, named = step
  solver = trainer_pb2.SolverOptions(
      optimizer='adamw', base_learning_rate=1e-4, adamw_weight_decay=0.05, adamw_epsilon=1e-8,
      training_number_of_steps=100, backbone_learning_rate_multiplier=0.1,
      use_gradient_clipping=True, clip_gradient_norm=expected['clip_norm'])
  optimizer = optimizers.build(solver, model.trainable_variables,
                               mask2former.parameter_groups(model, solver))
  optimizer.build()
  gradients = {id(variable): gradient for _, variable, gradient in named}
  before = [variable.numpy() for _, variable, _ in named]
  clipped, _ = optimizer.clip([gradients[id(v)] for v in optimizer.variables])
  optimizer.apply(clipped)
  updates = [(name, variable.numpy().astype(np.float64) - old)
             for (name, variable, _), old in zip(named, before)]
  for (_, variable, _), old in zip(named, before):
    variable.assign(old)

  sums, norms = collections.Counter(), _norms(updates)
  for name, update in updates:
    sums[name] += update.sum()
  recorded_updates = expected['update_sum_and_norm_after_one_step']
  assert set(norms) == set(recorded_updates)
  gradient_norms = expected['gradient_norms_before_clipping']
  smallest = 1e-6 * expected['total_gradient_norm_before_clipping']
  for name, (update_sum, norm) in recorded_updates.items():
    np.testing.assert_allclose(norms[name], norm, rtol=1e-3, err_msg=name)
    if gradient_norms[name] > smallest:  # The sign of a gradient that should be zero is noise.
      np.testing.assert_allclose(sums[name], update_sum, atol=1e-2 * norm, err_msg=name)
