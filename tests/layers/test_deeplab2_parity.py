"""Layers equal DeepLab2's: outputs, gradients and moving statistics."""

import functools
import zlib

import numpy as np
import parity_weights
import pytest
import tensorflow as tf

from deeplab_tf.layers.aspp import ASPP
from deeplab_tf.layers.axial_attention import AxialAttention1D, AxialAttention2D
from deeplab_tf.layers.block_group import BlockGroup, BlockGroupOptions
from deeplab_tf.layers.dual_path_attention import DualPathLayer, DualPathLayers, DualPathOptions
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.residual_block import BasicBlock, BlockOptions, BottleneckBlock
from deeplab_tf.layers.resized_fuse import ResizedFuse
from deeplab_tf.layers.stem import make_stem

pytestmark = pytest.mark.parity

_DUAL = DualPathOptions(channels=32, feed_forward_channels=96)


def _axial_block(norm, in_channels):
  return BottleneckBlock(in_channels, (64, 32, 128), norm, BlockOptions(has_attention=True))


def _decoder_stage(norm):
  options = BlockGroupOptions(output_stride=32, axial_beyond_stride=16)
  layers = DualPathLayers(DualPathOptions(channels=64, feed_forward_channels=64), 40, norm, 16)
  return BlockGroup(
      in_channels=64, filters=16, num_blocks=2, stride=1, input_stride=16, options=options,
      norm=norm, query_layer=functools.partial(layers, 16))


CASES = {
    'aspp_tiled_pool': lambda norm: ASPP(
        in_channels=24, channels=16, rates=(3, 6, 9), norm=norm, pool_size=(4, 5)),
    'axial_attention_1d': lambda norm: AxialAttention1D(24, 32, 64, 8, norm=norm),
    'axial_attention_2d_stride2': lambda norm: AxialAttention2D(16, 32, 64, 8, norm=norm, stride=2),
    'axial_block_identity': lambda norm: _axial_block(norm, 128),
    'axial_block_shortcut': lambda norm: _axial_block(norm, 96),
    'basic_block_stride2': lambda norm: BasicBlock(
        32, (64, 64), norm, BlockOptions(stride=2, squeeze_and_excite=True)),
    'bottleneck_block_atrous2':
        lambda norm: BottleneckBlock(64, (32, 64, 128), norm, BlockOptions(rate=2)),
    'bottleneck_block_stride2':
        lambda norm: BottleneckBlock(64, (32, 32, 128), norm, BlockOptions(stride=2)),
    'conv_stem_7x7': lambda norm: make_stem('resnet', 0.25, norm),
    'decoder_stage': _decoder_stage,
    'dual_path_transformer': lambda norm: DualPathLayer(48, 40, _DUAL, norm),
    'dual_path_transformer_no_m2m':
        lambda norm: DualPathLayer(48, 40, _DUAL._replace(memory_to_memory=False), norm),
    'dual_path_transformer_no_p2m':
        lambda norm: DualPathLayer(48, 40, _DUAL._replace(pixel_to_memory=False), norm),
    'inception_stem': lambda norm: make_stem('inception', 0.25, norm),
    'resized_fuse': lambda norm: ResizedFuse((64, 32, 16, 32, 24), (16, 8, 4, 16, 8), 32, 8,
                                             norm=norm),
}


def _run(layer, name, inputs, training):
  if name == 'resized_fuse':
    return [layer(inputs, (9, 13), training=training)]
  outputs = layer(*inputs, training=training)
  return list(outputs) if isinstance(outputs, tuple) else [outputs]


def _assert_near(actual, expected, what, tolerance=1e-4):
  scale = max(np.abs(expected).max(), 1e-3)
  error = np.abs(actual - expected).max() / scale
  assert error < tolerance, f'{what}: relative error {error:.2e}'


@pytest.mark.parametrize('mode', ['infer', 'train'])
@pytest.mark.parametrize('variant', ['sync', 'plain'])
@pytest.mark.parametrize('name', sorted(CASES))
def test_layer_equals_deeplab2(name, variant, mode):
  description, arrays = parity_weights.load_layer_case(name)
  if variant not in description['variants']:
    return  # Recorded for one of the two batch norms only.
  layer = CASES[name](functools.partial(BatchNorm, synchronized=variant == 'sync'))
  names = parity_weights.set_layer_weights(layer, parity_weights.recipe_weights(description))
  inputs = [tf.constant(arrays[k]) for k in sorted(arrays) if k.startswith('input')]
  # The recorded ASPP never drops out, so that its training outputs are those of inference.
  training = mode == 'train' and name != 'aspp_tiled_pool'
  prefix = f'{variant}|{mode}|'
  with tf.GradientTape() as tape:
    for x in inputs:
      tape.watch(x)
    outputs = _run(layer, name, inputs, training)
    projections = [
        np.random.default_rng(zlib.crc32(f'input:{name}:proj{i}'.encode()))
        .standard_normal(o.shape).astype(np.float32) for i, o in enumerate(outputs)
    ]
    loss = tf.add_n([tf.reduce_sum(o * p) for o, p in zip(outputs, projections)])
  variables = layer.trainable_variables
  gradients = tape.gradient(loss, inputs + variables)

  checked = 0
  for i, output in enumerate(outputs):
    if f'{prefix}output{i}' in arrays:
      _assert_near(output.numpy(), arrays[f'{prefix}output{i}'], f'output{i}')
      checked += 1
  for i in range(len(inputs)):
    if f'{prefix}grad_input{i}' in arrays:
      _assert_near(gradients[i].numpy(), arrays[f'{prefix}grad_input{i}'], f'grad_input{i}', 1e-3)
  assert checked
  _check_weight_gradients(layer, names, gradients[len(inputs):], description, arrays, prefix)
  _check_moving_statistics(layer, names, arrays, prefix)


def _check_weight_gradients(layer, names, gradients, description, arrays, prefix):
  norms = arrays.get(f'{prefix}grad_norm_weights')
  if norms is None:
    return
  by_id = {id(v): path for path, v in parity_weights.variables_by_path(layer).items()}
  expected = dict(zip(description['grad_weight_keys'], norms))
  for variable, gradient in zip(layer.trainable_variables, gradients):
    name = names[by_id[id(variable)]]
    norm = 0.0 if gradient is None else float(tf.norm(tf.convert_to_tensor(gradient)))
    # Some gradients are zero but for rounding (a batch norm's beta before a softmax).
    assert abs(norm - expected[name]) < 1e-3 * expected[name] + 1e-3 * norms.max() * 1e-2, name


def _check_moving_statistics(layer, names, arrays, prefix):
  paths = {name: path for path, name in names.items()}
  variables = parity_weights.variables_by_path(layer)
  for key, value in arrays.items():
    if key.startswith(f'{prefix}updated|'):
      name = key[len(f'{prefix}updated|'):]
      actual = variables[paths[name]].numpy()
      _assert_near(actual, np.reshape(value, actual.shape), name)
