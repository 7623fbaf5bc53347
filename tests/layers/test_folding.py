"""A model with folded batch norms computes the same as before."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_centers
import tiny_classification

import deeplab_tf
from deeplab_tf.compat import keras
from deeplab_tf.layers.axial_attention import AxialAttention1D
from deeplab_tf.layers.convolution import Convolution, DepthwiseConvolution, Projection
from deeplab_tf.layers.dual_path_attention import NormalizedAttention
from deeplab_tf.layers.folding import fold_norms
from deeplab_tf.layers.local_attention import LOCAL, LocalAttention2D
from deeplab_tf.layers.normalization import BatchNorm, FrozenBatchNorm, GroupNorm, LayerNorm
from deeplab_tf.layers.position_sensitive import AXIAL, PositionSensitiveAttention
from deeplab_tf.layers.switchable_atrous import SwitchableAtrousConvolution
from deeplab_tf.training import precision

NORM = functools.partial(BatchNorm, epsilon=1e-3)
_BACKBONE = 'model_options { backbone { %s } }'
_AXIAL = _BACKBONE % 'name: "axial_deeplab_s" backbone_width_multiplier: 0.25'


def _norms(model):
  return [layer for layer in model.submodules if isinstance(layer, BatchNorm)]


def _train_norms(model, images):
  """Gives batch norms statistics that fit their inputs but for some noise, and other parameters.

  Factors below 1 keep attention soft: sharp, it makes much of the last digits of its inputs.
  """
  rng = np.random.default_rng(0)
  for norm in _norms(model):
    norm.gamma.assign(rng.uniform(0.2, 0.6, norm.gamma.shape))
    norm.beta.assign(rng.normal(size=norm.beta.shape) / 4)
    norm.momentum = 0.0
  for layer in model.submodules:
    if isinstance(layer, PositionSensitiveAttention):
      layer.norm_similarity.gamma.assign(layer.norm_similarity.gamma / 5)
  model(images, training=True)
  for norm in _norms(model):
    norm.moving_variance.assign(norm.moving_variance * rng.uniform(0.7, 1.4, norm.gamma.shape))
    norm.moving_mean.assign_add(rng.normal(size=norm.gamma.shape) / 4 *
                                tf.sqrt(norm.moving_variance))


def _config(kind, folder, overrides):
  folder.mkdir(exist_ok=True)
  path = {'max_deeplab': tiny.write_config, 'panoptic_deeplab': tiny_centers.write_config,
          'classification': tiny_classification.write_experiment}[kind](folder)
  return deeplab_tf.load_config(path, overrides)


def _model(kind, folder, overrides=()):
  keras.utils.set_random_seed(0)
  return deeplab_tf.build_model(_config(kind, folder, overrides))


def _largest_errors(actual, expected):
  """The largest difference of each output, relative to its largest value."""
  return {name: np.abs(np.float64(actual[name]) - np.float64(value)).max() / np.abs(value).max()
          for name, value in expected.items()}


@pytest.mark.parametrize('kind, overrides', [
    ('max_deeplab', ()),
    ('panoptic_deeplab', ()),
    ('panoptic_deeplab', (_BACKBONE % 'use_squeeze_and_excite: true use_sac_beyond_stride: 32',)),
    ('panoptic_deeplab', (_AXIAL,)),
    ('panoptic_deeplab', (_AXIAL, _BACKBONE % 'attention { span: 5 key_positions: false }')),
    ('classification', ()),
], ids=['max_deeplab', 'resnet', 'resnet sac', 'axial', 'axial span',
        'classification'])
def test_outputs_of_a_folded_network_are_those_of_before(tmp_path, kind, overrides):
  model = _model(kind, tmp_path / 'a', overrides)
  images = tf.random.uniform([2, 65, 81, 3], -1, 1, seed=1)
  _train_norms(model, images)
  expected, variables = model(images), len(model.variables)
  # What float32 is worth in this network: the inputs change in their last digits.
  nearly = model(images * (1 + 1e-7 * tf.random.normal(images.shape, seed=2)))
  noise = _largest_errors(nearly, expected)
  fold_norms(model)
  for name, error in _largest_errors(model(images), expected).items():
    assert error < 2e-6 + 5 * noise[name], (name, error, noise[name])
    assert error < 1e-4
  assert len(model.variables) < 0.6 * variables
  assert len(model.variables) == len({id(v) for v in model.variables})


@pytest.mark.parametrize('kind, kept', [
    ('panoptic_deeplab', {''}), ('classification', {''}),
    ('max_deeplab', {'norm_masks', 'norm_similarity', 'norm_output'})])
def test_what_is_no_linear_map_keeps_its_norm(tmp_path, kind, kept):
  model = _model(kind, tmp_path / 'a')
  fold_norms(model)
  left = {id(norm) for norm in _norms(model)}
  places = {name for layer in model.submodules for name, value in vars(layer).items()
            if id(value) in left}
  assert places == kept - {''}
  layer = SwitchableAtrousConvolution(3, 4, 3, stride=1, rate=1, norm=NORM)
  fold_norms(layer)
  assert layer.norm is not None and not hasattr(layer, 'fold_norms')


def _set(layer, variance, seed=0):
  rng = np.random.default_rng(seed)
  for norm in _norms(layer):
    shape = norm.gamma.shape
    norm.gamma.assign(rng.normal(size=shape))
    norm.beta.assign(rng.normal(size=shape))
    norm.moving_mean.assign(rng.normal(size=shape) * np.sqrt(variance))
    norm.moving_variance.assign(rng.uniform(0.5, 1.5, shape) * variance)


LAYERS = {
    'convolution': (lambda: Convolution(5, 6, 3, stride=2, norm=NORM,
                                        activation='relu'), [2, 7, 8, 5]),
    'depthwise': (lambda: DepthwiseConvolution(5, 3, norm=NORM, activation='relu'), [2, 7, 8, 5]),
    'frozen': (lambda: Convolution(5, 6, 3, norm=FrozenBatchNorm, activation='gelu'), [2, 7, 8, 5]),
    'frozen axial': (lambda: AxialAttention1D(5, 8, 12, 2, norm=FrozenBatchNorm), [2, 9, 5]),
    'projection': (lambda: Projection(5, 6, NORM, 'gelu'), [2, 9, 5]),
    'axial': (lambda: AxialAttention1D(5, 8, 12, 2, norm=NORM), [2, 9, 5]),
    'axial in blocks': (lambda: AxialAttention1D(5, 8, 12, 2, norm=NORM,
                                                 options=AXIAL._replace(span=3)),
                        [2, 29, 5]),
    'no value positions': (lambda: AxialAttention1D(
        5, 8, 12, 2, norm=NORM, options=AXIAL._replace(value_positions=False)), [2, 9, 5]),
    'no positions': (lambda: AxialAttention1D(
        5, 8, 12, 2, norm=NORM,
        options=AXIAL._replace(value_positions=False, key_positions=False, query_positions=False)),
                     [2, 9, 5]),
    'not normalized': (lambda: AxialAttention1D(
        5, 8, 12, 2, norm=NORM, options=AXIAL._replace(normalized=False)), [2, 9, 5]),
    'local': (lambda: LocalAttention2D(5, 8, 12, 2, norm=NORM, options=LOCAL._replace(span=3)),
              [2, 5, 6, 5]),
}


@pytest.mark.parametrize('variance', [0.0, 1e-30, 1e-6, 1.0, 1e6, 1e16])
@pytest.mark.parametrize('name', LAYERS)
def test_any_variance_can_be_folded(name, variance):
  keras.utils.set_random_seed(0)
  make, shape = LAYERS[name]
  layer = make()
  _set(layer, variance)
  x = tf.random.normal(shape, seed=1)
  expected = layer(x).numpy()
  fold_norms(layer)
  assert not _norms(layer)
  np.testing.assert_allclose(layer(x), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize('norm', [LayerNorm, functools.partial(GroupNorm, groups=2)])
@pytest.mark.parametrize('make', [lambda norm: Convolution(5, 6, 3, norm=norm),
                                  lambda norm: DepthwiseConvolution(6, 3, norm=norm),
                                  lambda norm: Projection(5, 6, norm)])
def test_norms_that_depend_on_their_input_stay(make, norm):
  layer = make(norm)
  x = tf.random.normal([2, 4, 4, 6 if isinstance(layer, DepthwiseConvolution) else 5])
  expected = layer(x).numpy()
  fold_norms(layer)
  assert layer.norm is not None and layer.bias is None
  np.testing.assert_array_equal(layer(x), expected)


def test_folding_again_changes_nothing_and_nothing_is_left_to_train():
  layer = Convolution(3, 4, norm=NORM)
  _set(layer, 1.0)
  fold_norms(layer)
  before = [v.numpy() for v in layer.variables]
  fold_norms(layer)
  for expected, actual in zip(before, layer.variables):
    np.testing.assert_array_equal(actual, expected)
  assert len(before) == 2 and not layer.trainable_variables


def test_a_fold_is_computed_in_float64():
  layer = Projection(2, 1, NORM)
  layer.norm.moving_mean.assign([1e6])
  layer.norm.beta.assign([1.0])
  layer.norm.moving_variance.assign([3.0])
  fold_norms(layer)
  assert layer.bias.numpy()[0] == np.float32(1 - 1e6 / np.sqrt(np.float64(3) + 1e-3))


@pytest.mark.parametrize('make, shape', [
    (lambda: Convolution(32, 32, 3, norm=NORM), [4, 16, 16, 32]),
    (lambda: DepthwiseConvolution(32, 3, norm=NORM), [4, 16, 16, 32]),
    (lambda: Projection(32, 64, NORM), [4, 256, 32]),
    (lambda: AxialAttention1D(32, 32, 64, 4, norm=NORM), [64, 16, 32]),
    (lambda: LocalAttention2D(32, 32, 64, 4, norm=NORM, options=LOCAL._replace(span=3)),
     [4, 16, 16, 32])], ids=['convolution', 'depthwise', 'projection', 'axial', 'local'])
def test_half_precision_loses_no_more_than_unfolded(make, shape):
  keras.utils.set_random_seed(0)
  exact = make()
  with precision.scope('BFLOAT16'):
    half = make()
  x = tf.cast(tf.random.normal(shape, seed=1), tf.bfloat16)
  wide = tf.cast(x, tf.float32)
  _train_norms(exact, wide)
  half.set_weights(exact.get_weights())

  def loss():
    return np.sqrt(np.mean((tf.cast(half(x), tf.float32) - exact(wide))**2))

  unfolded = loss()
  fold_norms(half)
  # Local attention rounds about ten times on the way from input to output, with the norm at a place
  # of its own and in the weights: one rounding more in ten is sqrt(1.1) = 1.05 of the loss.
  # Between draws of the weights the ratio varies with a standard deviation of 0.013; three of them.
  assert 0 < loss() < (np.sqrt(1.1) + 3 * 0.013) * unfolded


@pytest.mark.parametrize('queries, keys', [(3, 20), (20, 3), (None, 3)])
def test_norms_of_dual_path_attention_go_where_there_is_less(queries, keys):
  layer = NormalizedAttention(8, 2, NORM)
  _set(layer, 1.0)
  query, key, value = (tf.random.normal([2, 2, n, 4], seed=seed)
                       for seed, n in enumerate((queries or 20, keys, keys)))
  run = tf.function(layer, input_signature=[
      tf.TensorSpec([2, 2, n, 4]) for n in (queries, keys, keys)])
  weights = tf.nn.softmax(layer.norm_similarity(tf.matmul(query, key, transpose_b=True)))
  expected = tf.nn.relu(layer.norm_output(tf.matmul(weights, value)))
  expected = tf.reshape(tf.transpose(expected, [0, 2, 1, 3]), [2, -1, 8])
  np.testing.assert_allclose(run(query, key, value), expected, rtol=1e-4, atol=1e-5)
