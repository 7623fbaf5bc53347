"""ResNets of torchvision's form equal Mask2Former's PyTorch code, at any size."""

import functools

import backbone_battery
import mask2former_weights as reference
import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import backbones
from deeplab_tf.backbones import torchvision_resnet
from deeplab_tf.backbones.torchvision_resnet import Bottleneck
from deeplab_tf.compat import keras
from deeplab_tf.layers import folding
from deeplab_tf.layers.convolution import Convolution
from deeplab_tf.layers.normalization import BatchNorm, FrozenBatchNorm
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.protos import model_pb2
from deeplab_tf.user_errors import ConfigError

NORM = functools.partial(BatchNorm, epsilon=1e-5, momentum=0.5)
SMALL = {'stem_channels': 6, 'middle_channels': 4, 'stage_channels': 8,
         'num_blocks': [1, 2, 1, 1]}
IMAGES = tf.random.stateless_normal([2, 65, 81, 3], [0, 1])


def _options(name='torchvision_resnet50', resnet=None, **fields):
  options = model_pb2.ModelOptions.BackboneOptions(name=name, **fields)
  if resnet is not None:
    options.resnet.MergeFrom(options.ResNetOptions(**resnet))
  return options


def _small(**fields):
  """A small network whose batch norms change something."""
  resnet = {**SMALL, **fields.pop('resnet', {})}
  backbone = backbones.build(_options(resnet=resnet, **fields), NORM)
  rng = np.random.default_rng(0)
  for path, variable in variables_by_path(backbone).items():
    if 'norm/' in path:
      variable.assign(rng.uniform(0.5, 1.5, variable.shape))
  return backbone


class TestTorchvisionResNet(backbone_battery.FourStageBattery):
  OPTIONS = {'batch norm': {'name': 'torchvision_resnet50', 'resnet': SMALL},
             'frozen': {'name': 'torchvision_resnet50',
                        'resnet': {**SMALL, 'frozen_batch_norm': True}},
             'deeplab form': {'name': 'torchvision_resnet50',
                              'resnet': {**SMALL, 'num_blocks': [1, 1, 1, 2],
                                         'deeplab_form': True}}}


# --- The reference's numbers ------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize('stride_in_1x1', [False, True])
def test_a_bottleneck_equals_the_pytorch_code(stride_in_1x1):
  arrays, weights = reference.operation(f'resnet_bottleneck_stride_in_1x1_{stride_in_1x1}')
  block = Bottleneck(16, 8, 32, stride=2, norm=NORM, stride_in_1x1=stride_in_1x1)
  reference.set_weights(block, weights)
  y = block(arrays['input_nchw'].transpose(0, 2, 3, 1))
  reference.assert_near(y, arrays['output_nchw'].transpose(0, 2, 3, 1), tolerance=2e-6)


@pytest.mark.parity
def test_the_stem_equals_the_pytorch_code():
  arrays, weights = reference.operation('resnet_stem_frozen_bn')
  backbone = _small(resnet={'stem_channels': 8, 'frozen_batch_norm': True})
  reference.set_weights(backbone.stem, {name.removeprefix('conv1.'): value
                                        for name, value in weights.items()})
  found = []
  first = backbone.stages[0][0]
  first.conv1.call = lambda x, training: found.append(x) or tf.zeros([*x.shape[:3], 4])
  backbone(arrays['input_nchw'].transpose(0, 2, 3, 1))
  reference.assert_near(found[0], arrays['output_nchw'].transpose(0, 2, 3, 1), tolerance=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize('case', ['a', 'b'])
def test_resnet50_equals_the_pytorch_code(case):
  options = _options(resnet={'frozen_batch_norm': True})
  reference.assert_features_are_recorded(backbones.build(options, NORM), 'r50', case)


@pytest.mark.parity
@pytest.mark.parametrize('variant, name', [('r50', 'torchvision_resnet50'),
                                           ('r101', 'torchvision_resnet101')])
def test_parameters_are_those_of_the_pytorch_code_without_frozen_norms(variant, name):
  described = reference.described(variant)
  kernels = sum(np.prod(w['shape']) for w in described.values() if '.norm.' not in w['name'])
  norms = sum(np.prod(w['shape']) for w in described.values()
              if w['name'].endswith(('norm.weight', 'norm.bias')))
  for frozen, expected in ((True, kernels), (False, kernels + norms)):
    with tf.Graph().as_default():  # Variables without values.
      backbone = backbones.build(_options(name, {'frozen_batch_norm': frozen}), NORM)
    assert sum(v.shape.num_elements() for v in backbone.trainable_variables) == expected
    assert len(variables_by_path(backbone)) == len(described)


# --- What holds without a reference -----------------------------------------------------------


def _convolved(x, layer):
  """The convolution and the norm of a layer, in numpy, with PyTorch's symmetric padding."""
  kernel = layer.kernel.numpy().astype(np.float64)
  reach, rate = kernel.shape[0] // 2 * layer.rate, layer.rate
  padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
  rows, columns = (range(0, n, layer.stride) for n in x.shape[1:3])
  y = np.stack([np.stack([np.einsum(
      'bijc,ijco->bo', padded[:, i:i + 2 * reach + 1:rate, j:j + 2 * reach + 1:rate], kernel)
                          for j in columns], 1) for i in rows], 1)
  norm = layer.norm
  scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
  return (y - norm.moving_mean.numpy()) * scale + norm.beta.numpy()


@pytest.mark.parametrize('size', [(8, 6), (7, 9)], ids=str)
@pytest.mark.parametrize('stride_in_1x1', [False, True])
def test_a_strided_block_is_its_equation_at_even_and_odd_sizes(stride_in_1x1, size):
  block = _small(resnet={'stride_in_1x1': stride_in_1x1}).stages[1][0]
  x = np.random.default_rng(1).normal(size=[2, *size, 8])
  branch = np.maximum(_convolved(x, block.conv1), 0)
  branch = np.maximum(_convolved(branch, block.conv2), 0)
  expected = np.maximum(_convolved(x, block.shortcut) + _convolved(branch, block.conv3), 0)
  np.testing.assert_allclose(block(tf.constant(x, tf.float32)), expected, atol=1e-4)
  assert (block.conv1.stride, block.conv2.stride) == ((2, 1) if stride_in_1x1 else (1, 2))


@pytest.mark.parametrize('size', [(12, 10), (9, 11)], ids=str)
def test_deeplabs_stem_is_its_equation_at_even_and_odd_sizes(size):
  backbone = _small(resnet={'deeplab_form': True})
  x = np.random.default_rng(1).normal(size=[2, *size, 3])
  convolutions = [backbone.stem.conv1, backbone.stem.conv2, backbone.stem.conv3]
  assert [c.kernel.shape.as_list() for c in convolutions] == [
      [3, 3, 3, 6], [3, 3, 6, 6], [3, 3, 6, 12]]
  assert [c.stride for c in convolutions] == [2, 1, 1]
  expected = x
  for convolution in convolutions:
    expected = np.maximum(_convolved(expected, convolution), 0)
  np.testing.assert_allclose(backbone.stem(tf.constant(x, tf.float32)), expected, atol=1e-4)
  assert backbone.stages[0][0].shortcut.kernel.shape == (1, 1, 12, 8)


def test_the_last_stage_of_deeplabs_form_is_dilated_and_keeps_its_strides():
  backbone = _small(resnet={'deeplab_form': True, 'num_blocks': [1, 2, 1, 3]})
  rates = [[block.conv2.rate for block in stage] for stage in backbone.stages]
  assert rates == [[1], [1, 1], [1], [1, 2, 4]]
  assert [f.stride for f in backbone.features] == [4, 8, 16, 32]
  x = np.random.default_rng(1).normal(size=[1, 9, 10, 32])
  expected = x
  for block in backbone.stages[3]:
    branch = np.maximum(_convolved(expected, block.conv1), 0)
    branch = _convolved(np.maximum(_convolved(branch, block.conv2), 0), block.conv3)
    shortcut = _convolved(expected, block.shortcut) if block.shortcut else expected
    expected = np.maximum(shortcut + branch, 0)
  assert expected.shape == (1, 5, 5, 64)
  found = tf.constant(x, tf.float32)
  for block in backbone.stages[3]:
    found = block(found)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_deeplabs_form_of_resnet101_has_more_parameters():
  counts = []
  for form in (False, True):
    with tf.Graph().as_default():  # Variables without values.
      backbone = backbones.build(_options('torchvision_resnet101', {
          'frozen_batch_norm': True, 'deeplab_form': form}), NORM)
    counts.append(sum(v.shape.num_elements() for v in backbone.trainable_variables))
  # Three convolutions instead of one, and twice the channels before the first block.
  stem = 9 * (3 * 64 + 64 * 64 + 64 * 128) - 49 * 3 * 64
  assert counts[1] - counts[0] == stem + 64 * (64 + 256) == 123_392


def test_the_pooling_is_symmetric():
  backbone = _small()
  stem = backbone.stem(IMAGES).numpy()
  padded = np.pad(stem, [(0, 0), (1, 1), (1, 1), (0, 0)])
  pooled = np.max([padded[:, i:i + 2 * 17:2, j:j + 2 * 21:2]
                   for i in range(3) for j in range(3)], axis=0)
  expected = backbone.stages[0][0](pooled[:, :17, :21])
  np.testing.assert_allclose(backbone(IMAGES)['res2'], expected, atol=1e-5)


def test_frozen_norms_are_constants():
  backbone = _small(resnet={'frozen_batch_norm': True})
  norms = [layer for layer in backbone.submodules if isinstance(layer, BatchNorm)]
  assert len(norms) == 20 and all(isinstance(norm, FrozenBatchNorm) for norm in norms)
  assert all(norm.epsilon == 1e-5 for norm in norms)
  assert all(v.name.endswith('kernel:0') for v in backbone.trainable_variables)
  before = [v.numpy() for v in backbone.non_trainable_variables]
  trained = backbone(IMAGES, training=True)
  for a, b in zip(before, backbone.non_trainable_variables):
    np.testing.assert_array_equal(a, b)
  for name, value in backbone(IMAGES).items():
    np.testing.assert_array_equal(value, trained[name])


def test_other_norms_come_from_the_factory_and_learn():
  backbone = _small()
  norms = [layer for layer in backbone.submodules if isinstance(layer, BatchNorm)]
  assert len(norms) == 20 and {type(norm) for norm in norms} == {BatchNorm}
  before = backbone.stem.norm.moving_mean.numpy()
  assert not np.allclose(backbone(IMAGES, training=True)['res5'], backbone(IMAGES)['res5'])
  assert not np.allclose(backbone.stem.norm.moving_mean, before)


def _gradients(backbone):
  with tf.GradientTape() as tape:
    outputs = backbone(IMAGES, training=True)
    loss = tf.add_n([tf.reduce_sum(tf.sin(x)) for x in outputs.values()])
  return tape.gradient(loss, backbone.trainable_variables)


def test_every_variable_learns_and_recomputed_blocks_have_the_same_gradients():
  plain, saving = _small(), _small(recomputed='BLOCKS')
  saving.set_weights(plain.get_weights())
  for variable, a, b in zip(plain.trainable_variables, _gradients(plain), _gradients(saving)):
    assert np.abs(a).max() > 0, variable.name
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3, err_msg=variable.name)
  for a, b in zip(plain.non_trainable_variables, saving.non_trainable_variables):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('frozen', [False, True])
def test_all_norms_fold(frozen):
  backbone = _small(resnet={'frozen_batch_norm': frozen})
  expected = backbone(IMAGES)
  folding.fold_norms(backbone)
  assert not any(isinstance(layer, BatchNorm) for layer in backbone.submodules)
  for name, value in backbone(IMAGES).items():
    reference.assert_near(value, expected[name].numpy(), name)


def test_new_kernels_have_the_initialization_of_torchvision():
  keras.utils.set_random_seed(0)
  backbone = _small(resnet={'middle_channels': 64})
  kernel = backbone.stages[2][0].conv2.kernel.numpy()
  assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.02)
  assert all(isinstance(block.conv3, Convolution) for stage in backbone.stages for block in stage)
  fresh = backbones.build(_options(resnet=SMALL), NORM)
  np.testing.assert_array_equal(fresh.stages[0][0].conv3.norm.gamma, np.ones(8))


# --- Configs ----------------------------------------------------------------------------------


def test_options_change_the_variant():
  sizes = torchvision_resnet.VARIANTS['torchvision_resnet101']
  assert sizes.num_blocks == (3, 4, 23, 3)
  assert [len(stage) for stage in _small().stages] == [1, 2, 1, 1]
  # A message without fields changes nothing, and DeepLab2's defaults may be written out.
  with tf.Graph().as_default():
    backbone = backbones.build(_options('torchvision_resnet101', {}, output_stride=32,
                                        use_sac_beyond_stride=-1, drop_path_keep_prob=1.0), NORM)
  assert [len(stage) for stage in backbone.stages] == [3, 4, 23, 3]
  assert [f.channels for f in backbone.features] == [256, 512, 1024, 2048]


@pytest.mark.parametrize('fields, message', [
    ({'output_stride': 16}, 'output_stride is 16: torchvision_resnet50 allows only 32'),
    ({'use_squeeze_and_excite': True}, 'use_squeeze_and_excite is true: .* allows only false'),
    ({'drop_path_keep_prob': 0.5}, 'drop_path_keep_prob is 0.5: .* allows only 1;'),
    ({'drop_path_schedule': 'linear'}, 'drop_path_schedule is "linear": .* allows only "constant"'),
    ({'stem_width_multiplier': 0.5}, 'stem_width_multiplier is 0.5: .* allows only 1;'),
    ({'backbone_width_multiplier': 2.0}, 'backbone_width_multiplier is 2: .* allows only 1;'),
    ({'backbone_layer_multiplier': 2.0}, 'backbone_layer_multiplier is 2: .* allows only 1;'),
    ({'use_sac_beyond_stride': 32}, 'use_sac_beyond_stride is 32: .* allows only -1;'),
    ({'recomputed': 'AXIAL_BLOCKS'}, 'recomputed is AXIAL_BLOCKS: .* allows NOTHING, BLOCKS'),
    ({'recomputed': 'BLOCK_GROUPS'}, 'recomputed is BLOCK_GROUPS: .* allows NOTHING, BLOCKS'),
    ({'attention': {'span': 5}}, 'attention is set, but torchvision_resnet50 does not take it'),
    ({'swin': {}}, 'swin is set, but torchvision_resnet50 does not take it'),
    ({'resnet': {'num_blocks': [1, 2]}}, 'resnet.num_blocks has 2 numbers: give one for each of'),
    ({'name': 'resnet50', 'resnet': {}}, 'resnet is set, but resnet50 does not take it'),
    ({'name': 'max_deeplab_s', 'swin': {}}, 'swin is set, but max_deeplab_s does not take it'),
], ids=lambda x: x if isinstance(x, str) else '')
def test_what_the_network_lacks_is_refused(fields, message):
  fields = {'name': 'torchvision_resnet50', **fields}
  with pytest.raises(ConfigError, match=rf'^model_options\.backbone\.{message}'):
    backbones.build(model_pb2.ModelOptions.BackboneOptions(**fields), NORM)
