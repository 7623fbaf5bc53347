"""Swin backbones equal Mask2Former's PyTorch code, at any size."""

import json

import backbone_battery
import mask2former_weights as reference
import numpy as np
import pytest
import shared
import tensorflow as tf
from scipy import special

from deeplab_tf import backbones
from deeplab_tf.backbones.swin import FeedForward, PatchEmbedding, PatchMerging, SwinStage
from deeplab_tf.compat import keras
from deeplab_tf.layers import randomness
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.protos import model_pb2
from deeplab_tf.training import precision
from deeplab_tf.user_errors import ConfigError

SMALL = {'embedding_channels': 8, 'num_blocks': [1, 2, 3, 2], 'num_heads': [1, 2, 2, 4],
         'window_size': 3}
IMAGES = tf.random.stateless_normal([2, 65, 81, 3], [0, 1])


def _options(name='swin_tiny', swin=None, **fields):
  options = model_pb2.ModelOptions.BackboneOptions(name=name, **fields)
  if swin is not None:
    options.swin.MergeFrom(options.SwinOptions(**swin))
  return options


def _small(seed=0, **fields):
  """A small network whose norms and biases change something."""
  keras.utils.set_random_seed(seed)
  backbone = backbones.build(_options(swin={**SMALL, **fields.pop('swin', {})}, **fields),
                             BatchNorm)
  rng = np.random.default_rng(seed)
  for path, variable in variables_by_path(backbone).items():
    if path.endswith(('beta', 'bias')):
      variable.assign(rng.normal(0, 0.5, variable.shape))
    if path.endswith('kernel'):
      variable.assign(variable * 20)
  return backbone


class TestSwin(backbone_battery.FourStageBattery):
  OPTIONS = {'swin_tiny': {'name': 'swin_tiny', 'swin': SMALL}}


# --- The reference's numbers ------------------------------------------------------------------


@pytest.mark.parity
def test_a_stage_equals_the_pytorch_code():
  arrays, weights = reference.operation('swin_stage')
  height, width = (int(n) for n in arrays['hw'])
  stage = SwinStage(24, int(arrays['heads']), window_size=int(arrays['window']),
                    keep_probs=[1.0, 1.0], merges=True)
  reference.set_weights(stage, weights)
  x = arrays['input_b_hw_c'].reshape(2, height, width, 24)
  for block, name in zip(stage.blocks, ('after_block0', 'after_block1_shifted')):
    x = block(x)
    reference.assert_near(x, arrays[name].reshape(x.shape), name, 2e-6)
  found = stage(arrays['input_b_hw_c'].reshape(2, height, width, 24))
  np.testing.assert_array_equal(found[0], x)
  assert found[1].shape[1:3] == tuple(arrays['merged_hw'])
  reference.assert_near(found[1], arrays['after_patch_merging'].reshape(found[1].shape), 'merged',
                        2e-6)


@pytest.mark.parity
@pytest.mark.parametrize('case', ['a', 'b'])
def test_swin_tiny_equals_the_pytorch_code(case):
  reference.assert_features_are_recorded(backbones.build(_options(), BatchNorm), 'swin_tiny', case)


@pytest.mark.parity
@pytest.mark.parametrize('variant', ['swin_tiny', 'swin_small', 'swin_base', 'swin_large'])
def test_variables_are_those_of_the_pytorch_code(variant):
  described = reference.described(variant)
  with tf.Graph().as_default():  # Variables without values.
    backbone = backbones.build(_options(variant), BatchNorm)
  parameters = sum(v.shape.num_elements() for v in backbone.trainable_variables)
  assert parameters == sum(np.prod(w['shape']) for w in described.values())
  assert len(backbone.trainable_variables) == len(described)
  # Of the whole network, the rest is the decoders.
  text = shared.path('parity', 'mask2former', f'weights_{variant}.json').read_text()
  assert parameters < json.loads(text)['num_parameters']


# --- What holds without a reference -----------------------------------------------------------


def _layer_norm(x, layer):
  mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(variance + 1e-5) * layer.gamma.numpy() + layer.beta.numpy()


def test_patches_are_padded_at_the_bottom_and_on_the_right():
  layer = PatchEmbedding(8)
  images = np.random.default_rng(0).normal(size=[1, 9, 6, 3])
  padded = np.pad(images, [(0, 0), (0, 3), (0, 2), (0, 0)])
  kernel = layer.projection.kernel.numpy()
  y = np.array([[[np.einsum('ijc,ijco->o', padded[0, i:i + 4, j:j + 4], kernel)
                  for j in (0, 4)] for i in (0, 4, 8)]])
  np.testing.assert_allclose(layer(tf.constant(images, tf.float32)), _layer_norm(y, layer.norm),
                             atol=1e-4)


def test_merging_joins_four_tokens_column_by_column():
  layer = PatchMerging(4)
  x = np.random.default_rng(0).normal(size=[2, 5, 6, 4])
  padded = np.pad(x, [(0, 0), (0, 1), (0, 0), (0, 0)])
  joined = np.concatenate([padded[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
  expected = _layer_norm(joined, layer.norm) @ layer.reduction.kernel.numpy()
  np.testing.assert_allclose(layer(tf.constant(x, tf.float32)), expected, atol=1e-5)
  assert len(layer.variables) == 3  # No bias.


def test_gelu_is_exact():
  layer = FeedForward(4)
  layer.fc1.kernel.assign(layer.fc1.kernel * 50)
  x = np.random.default_rng(0).normal(size=[1, 2, 3, 4])
  hidden = x @ layer.fc1.kernel.numpy().astype(np.float64)
  hidden *= 0.5 * (1 + special.erf(hidden / np.sqrt(2)))
  # The usual approximation by tanh differs by up to 5e-4.
  np.testing.assert_allclose(layer(tf.constant(x, tf.float32)), hidden @ layer.fc2.kernel.numpy(),
                             atol=1e-6)


def test_a_feature_is_normalized_and_later_stages_do_not_see_that():
  backbone = _small()
  before = backbone(IMAGES)
  tokens, _ = backbone.stages[0](backbone.patch_embedding(IMAGES))
  np.testing.assert_allclose(before['res2'],
                             _layer_norm(tokens.numpy(), backbone.output_norms[0]), atol=1e-4)
  backbone.output_norms[0].gamma.assign(backbone.output_norms[0].gamma * 2)
  after = backbone(IMAGES)
  assert not np.allclose(before['res2'], after['res2'])
  np.testing.assert_array_equal(before['res3'], after['res3'])


def test_every_second_block_is_shifted_by_half_a_window_also_in_the_last_stage():
  for window_size in (3, 4):
    backbone = _small(swin={'window_size': window_size})
    shifts = [[block.attention.shift for block in stage.blocks] for stage in backbone.stages]
    s = window_size // 2
    assert shifts == [[0], [0, s], [0, s, 0], [0, s]]


# --- Training ---------------------------------------------------------------------------------


def _loss_and_gradients(backbone):
  with randomness.seeded(tf.constant([1, 2])), tf.GradientTape() as tape:
    outputs = backbone(IMAGES, training=True)
    loss = tf.add_n([tf.reduce_sum(tf.sin(x)) for x in outputs.values()])
  return loss, tape.gradient(loss, backbone.trainable_variables)


def test_every_variable_learns_and_recomputed_blocks_have_the_same_gradients():
  dropped = {'drop_path_keep_prob': 0.8, 'drop_path_schedule': 'linear'}
  plain, saving = _small(**dropped), _small(recomputed='BLOCKS', **dropped)
  paths = list(variables_by_path(plain))
  (loss, gradients), (other_loss, others) = (_loss_and_gradients(b) for b in (plain, saving))
  assert loss.numpy() == pytest.approx(other_loss.numpy(), rel=1e-5)
  assert len(paths) == len(gradients)
  for variable, a, b in zip(plain.trainable_variables, gradients, others):
    # Not IndexedSlices: clipping by the global norm needs one row for each row of the variable.
    assert isinstance(a, tf.Tensor) and np.abs(a).max() > 0, variable.name
    reference.assert_near(b, a.numpy(), variable.name, 1e-3)


def test_the_rate_of_dropped_branches_grows_from_block_to_block():
  def probabilities(**fields):
    backbone = _small(drop_path_keep_prob=0.7, **fields)
    return [block.keep_prob for stage in backbone.stages for block in stage.blocks]

  np.testing.assert_allclose(probabilities(drop_path_schedule='linear'),
                             1 - np.linspace(0, 0.3, 8))
  assert probabilities() == [pytest.approx(0.7)] * 8


def test_the_branches_of_a_block_are_dropped_independently_for_each_image():
  block = _small(drop_path_keep_prob=0.5).stages[0].blocks[0]
  x = tf.random.stateless_normal([64, 2, 2, 8], [0, 1])
  first = x + 2 * block.attention(block.norm1(x))
  found = np.zeros([2, 2], int)
  with randomness.seeded(tf.constant([3, 4])):
    y = block(x, training=True)
  for has_first, start in enumerate((x, first)):
    for has_second, end in enumerate((start, start + 2 * block.mlp(block.norm2(start)))):
      found[has_first, has_second] = (np.abs(y - end).max((1, 2, 3)) < 1e-3).sum()
  assert found.sum() == 64 and found.min() >= 6, found
  with randomness.seeded(tf.constant([3, 4])):
    np.testing.assert_array_equal(block(x, training=True), y)
  np.testing.assert_allclose(block(x), x + block.attention(block.norm1(x)) + block.mlp(
      block.norm2(x + block.attention(block.norm1(x)))), atol=1e-4)


def test_bfloat16_keeps_variables_norms_and_softmax_in_float32():
  full = _small()
  with precision.scope('BFLOAT16'):
    half = _small()
  half.set_weights(full.get_weights())
  assert {v.dtype for v in half.variables} == {tf.float32}
  graph = tf.function(half).get_concrete_function(tf.TensorSpec([1, 65, 81, 3])).graph
  softmaxes = [op for op in graph.get_operations() if op.type == 'Softmax']
  assert len(softmaxes) == 8
  assert {op.outputs[0].dtype for op in softmaxes} == {tf.float32}
  features = half(IMAGES)
  assert {x.dtype for x in features.values()} == {tf.bfloat16}
  for name, value in full(IMAGES).items():
    reference.assert_near(tf.cast(features[name], tf.float32), value.numpy(), name, 0.1)


# --- Configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize('name, blocks, heads, channels, window_size', [
    ('swin_tiny', [2, 2, 6, 2], [3, 6, 12, 24], 96, 7),
    ('swin_small', [2, 2, 18, 2], [3, 6, 12, 24], 96, 7),
    ('swin_base', [2, 2, 18, 2], [4, 8, 16, 32], 128, 12),
    ('swin_large', [2, 2, 18, 2], [6, 12, 24, 48], 192, 12)])
def test_variants_have_the_sizes_of_the_paper(name, blocks, heads, channels, window_size):
  with tf.Graph().as_default():
    # A message without fields changes nothing, and DeepLab2's defaults may be written out.
    backbone = backbones.build(_options(name, {}, output_stride=32, use_sac_beyond_stride=-1),
                               BatchNorm)
  attentions = [stage.blocks[0].attention for stage in backbone.stages]
  assert [len(stage.blocks) for stage in backbone.stages] == blocks
  assert [attention.num_heads for attention in attentions] == heads
  assert {attention.window_size for attention in attentions} == {window_size}
  assert [f.channels for f in backbone.features] == [channels * 2**i for i in range(4)]


@pytest.mark.parametrize('fields, message', [
    ({'output_stride': 16}, 'output_stride is 16: swin_tiny allows only 32'),
    ({'use_squeeze_and_excite': True}, 'use_squeeze_and_excite is true: .* allows only false'),
    ({'stem_width_multiplier': 0.5}, 'stem_width_multiplier is 0.5: .* allows only 1;'),
    ({'backbone_width_multiplier': 2.0}, 'backbone_width_multiplier is 2: .* allows only 1;'),
    ({'backbone_layer_multiplier': 2.0}, 'backbone_layer_multiplier is 2: .* allows only 1;'),
    ({'use_sac_beyond_stride': 32}, 'use_sac_beyond_stride is 32: .* allows only -1;'),
    ({'recomputed': 'AXIAL_BLOCKS'}, 'recomputed is AXIAL_BLOCKS: .* allows NOTHING, BLOCKS'),
    ({'recomputed': 'BLOCK_GROUPS'}, 'recomputed is BLOCK_GROUPS: .* allows NOTHING, BLOCKS'),
    ({'attention': {'span': 5}}, 'attention is set, but swin_tiny does not take it'),
    ({'resnet': {}}, 'resnet is set, but swin_tiny does not take it'),
    ({'swin': {'num_blocks': [1, 2]}}, 'swin.num_blocks has 2 numbers: give one for each of the 4'),
    ({'swin': {'num_heads': [3]}}, r'swin.num_heads has 1 numbers: .* \[3, 6, 12, 24\]'),
    ({'swin': {'num_heads': [3, 6, 7, 3]}}, 'swin.num_heads has 7 for stage 3: its 384 channels'),
    ({'name': 'resnet50', 'swin': {}}, 'swin is set, but resnet50 does not take it'),
    ({'name': 'wide_resnet41', 'resnet': {}}, 'resnet is set, but wide_resnet41 does not take it'),
], ids=lambda x: x if isinstance(x, str) else '')
def test_what_the_network_lacks_is_refused(fields, message):
  fields = {'name': 'swin_tiny', **fields}
  with pytest.raises(ConfigError, match=rf'^model_options\.backbone\.{message}'):
    backbones.build(model_pb2.ModelOptions.BackboneOptions(**fields), BatchNorm)
