"""Checks that every backbone must pass: the tests of a backbone inherit them.

  class TestResNet(backbone_battery.BackboneBattery):
    OPTIONS = {'resnet50': dict(name='resnet50', output_stride=32)}

Each entry of OPTIONS is BackboneOptions of a narrow network.
"""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import backbones
from deeplab_tf.compat import keras
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.protos import model_pb2
from deeplab_tf.training import precision

# Widths and depths that make DeepLab2's networks small.
NARROW = {'stem_width_multiplier': 0.25, 'backbone_width_multiplier': 0.125,
          'backbone_layer_multiplier': 0.34}
IMAGES = tf.random.stateless_normal([2, 65, 81, 3], [0, 1])


def build(options: dict):
  """Builds a backbone of BackboneOptions, with the same weights each time."""
  keras.utils.set_random_seed(0)
  return backbones.build(model_pb2.ModelOptions.BackboneOptions(**options), BatchNorm)


class BackboneBattery:
  """The checks. A subclass says which backbones.

  Attributes:
    OPTIONS: Name -> BackboneOptions as keywords.
    SIZES: Input sizes, height and width.
    INVARIANT: Ends of the paths of variables that change no feature.
    HALF_PRECISION: Largest difference of bfloat16 features, relative to float32's largest value.
  """
  OPTIONS: dict[str, dict]
  SIZES = ((65, 81), (64, 96), (50, 33))
  # An offset that all logits of a softmax share changes nothing.
  INVARIANT = ('norm_similarity/beta',)
  HALF_PRECISION = 0.15

  def pytest_generate_tests(self, metafunc):
    if 'options' in metafunc.fixturenames:
      metafunc.parametrize('options', self.OPTIONS.values(), ids=self.OPTIONS.keys(),
                           scope='class')

  @pytest.fixture(scope='class')
  def backbone(self, options):
    return build(options)

  def test_features_have_the_described_shapes(self, backbone):
    for height, width in self.SIZES:
      features = backbone(tf.random.stateless_normal([1, height, width, 3], [0, 1]))
      assert sorted(features) == sorted(f.name for f in backbone.features)
      for feature in backbone.features:
        assert features[feature.name].shape == (
            1, -(-height // feature.stride), -(-width // feature.stride), feature.channels), feature
        assert np.isfinite(features[feature.name]).all()

  def test_sizes_unknown_while_tracing_give_the_same_features(self, backbone):
    run = tf.function(backbone, input_signature=[tf.TensorSpec([None, None, None, 3])],
                      autograph=False)
    expected, found = backbone(IMAGES), run(IMAGES)
    for name in expected:
      np.testing.assert_allclose(found[name], expected[name], atol=2e-4, err_msg=name)

  def test_all_variables_exist_before_the_first_call(self, options):
    backbone = build(options)
    before = variables_by_path(backbone)
    assert before and len(before) == len(backbone.variables)
    backbone(IMAGES)
    assert set(variables_by_path(backbone)) == set(before)

  def test_a_gradient_reaches_every_variable(self, options):
    backbone = build(options)
    # Some norms start as zero, and with them everything before.
    for variable in backbone.trainable_variables:
      variable.assign_add(0.1 * tf.random.stateless_normal(variable.shape, [0, 2]))
    with tf.GradientTape() as tape:
      features = backbone(IMAGES, training=True)
      loss = tf.add_n([tf.reduce_sum(tf.sin(3 * x)) for x in features.values()])
    paths = variables_by_path(backbone)
    trained = {path: v for path, v in paths.items() if v.trainable}
    for path, gradient in zip(trained, tape.gradient(loss, list(trained.values()))):
      is_used = gradient is not None and np.any(tf.convert_to_tensor(gradient))
      assert is_used or path.endswith(self.INVARIANT), path

  def test_bfloat16_computes_about_the_same_on_float32_variables(self, options, backbone):
    with precision.scope('BFLOAT16'):
      half = build(options)
    assert {v.dtype for v in half.variables} == {tf.float32}
    half.set_weights(backbone.get_weights())
    expected = backbone(IMAGES)
    for name, value in half(IMAGES).items():
      assert value.dtype == tf.bfloat16, name
      difference = np.abs(tf.cast(value, tf.float32) - expected[name]).max()
      assert difference <= self.HALF_PRECISION * np.abs(expected[name]).max(), name

  @pytest.mark.slow
  def test_xla_computes_the_same(self, backbone):
    compiled = tf.function(backbone, jit_compile=True, autograph=False)(IMAGES)
    for name, value in backbone(IMAGES).items():
      np.testing.assert_allclose(compiled[name], value, atol=2e-4, err_msg=name)

  def test_a_checkpoint_gives_the_same_features(self, options, backbone, tmp_path):
    prefix = tf.train.Checkpoint(backbone=backbone).write(str(tmp_path / 'ckpt'))
    other = build(options)
    for variable in other.variables:
      variable.assign(tf.cast(tf.fill(variable.shape, -7.0), variable.dtype))
    tf.train.Checkpoint(backbone=other).read(prefix).assert_consumed()
    for name, value in backbone(IMAGES).items():
      np.testing.assert_array_equal(other(IMAGES)[name], value, err_msg=name)


class FourStageBattery(BackboneBattery):
  """The checks of backbones whose features are the outputs of four stages, of 8 to 64 channels."""
  SIZES = ((65, 81), (64, 96), (1, 3), (33, 2))

  def test_features_are_those_that_pixel_decoders_ask_for(self, backbone):
    assert [f.name for f in backbone.features] == ['res2', 'res3', 'res4', 'res5']
    assert [f.stride for f in backbone.features] == [4, 8, 16, 32]
    assert [f.channels for f in backbone.features] == [8, 16, 32, 64]
