"""What every kind of pixel decoder does: sizes, precision, gradients, options, compilation."""

import numpy as np
import plain_maps
import pytest
import tensorflow as tf

from deeplab_tf import pixel_decoders
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.precision import policy
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.protos import model_pb2
from deeplab_tf.user_errors import ConfigError

FEATURES = (Feature('res2', 4, 3), Feature('res3', 8, 5), Feature('res4', 16, 4),
            Feature('res5', 32, 6))
KINDS = {
    'FPN': {'kind': 'FPN'},
    'FPN with encoder': {'kind': 'FPN', 'num_encoder_layers': 1},
    'SEMANTIC_FPN': {'kind': 'SEMANTIC_FPN'},
    'BIFPN': {'kind': 'BIFPN', 'num_fusion_layers': 1},
    'FAPN': {'kind': 'FAPN'},
}


def _decoder(options, features=FEATURES, recomputed=False):
  """Returns a narrow decoder with random variables."""
  options = model_pb2.ModelOptions.Mask2FormerOptions.PixelDecoderOptions(
      **{'channels': 64, 'feed_forward_channels': 24, **options})
  decoder = pixel_decoders.build(options, features, mask_channels=7, num_heads=4,
                                 recompute=recomputed)
  # Small offsets of deformable convolutions: at a kink their gradient depends on rounding.
  plain_maps.randomize(decoder, 0.1)
  return decoder


def _inputs(height=50, width=41, dtype=tf.float32):
  return {f.name: tf.cast(tf.random.stateless_normal(
      [2, -(-height // f.stride), -(-width // f.stride), f.channels], [0, f.stride]), dtype)
      for f in FEATURES}


@pytest.fixture(name='options', params=KINDS.values(), ids=KINDS)
def fixture_options(request):
  return request.param


@pytest.mark.parametrize('size', [(64, 96), (50, 41), (3, 5)])
def test_shapes_at_odd_sizes(options, size):
  decoder, inputs = _decoder(options), _inputs(*size)
  output = decoder(inputs)
  assert [x.shape.as_list() for x in (*output.levels, output.mask_features)] == [
      [2, -(-size[0] // stride), -(-size[1] // stride), channels]
      for stride, channels in ((32, 64), (16, 64), (8, 64), (4, 7))]
  assert (decoder.channels, decoder.mask_channels) == (64, 7)
  assert output.coarsest.shape == [*inputs['res5'].shape[:3], decoder.coarsest_channels]
  if 'num_encoder_layers' not in options:
    np.testing.assert_array_equal(output.coarsest, inputs['res5'])
  for x in tf.nest.flatten(output):
    assert x.dtype == tf.float32 and np.isfinite(x).all()


def test_sizes_unknown_while_tracing_give_the_same_features(options):
  decoder, inputs = _decoder(options), _inputs()
  run = tf.function(decoder, autograph=False, input_signature=[
      {f.name: tf.TensorSpec([None, None, None, f.channels]) for f in FEATURES}])
  for a, b in zip(tf.nest.flatten(run(inputs)), tf.nest.flatten(decoder(inputs))):
    np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.slow
def test_xla_computes_the_same_features(options):
  decoder, inputs = _decoder(options), _inputs()
  found = tf.function(decoder, autograph=False, jit_compile=True)(inputs)
  for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(decoder(inputs))):
    np.testing.assert_allclose(a, b, atol=1e-4)


def _gradients(decoder, inputs):
  with tf.GradientTape() as tape:
    outputs = tf.nest.flatten(decoder(inputs, training=True))
    loss = tf.add_n([tf.reduce_sum(x * tf.random.stateless_normal(x.shape, [1, i]))
                     for i, x in enumerate(outputs)])
  return outputs, tape.gradient(loss, decoder.trainable_variables)


def test_every_variable_gets_a_gradient(options):
  decoder = _decoder(options)
  _, gradients = _gradients(decoder, _inputs())
  paths = variables_by_path(decoder)
  assert len(gradients) == len(decoder.variables) == len(paths)
  idle = [path for path, gradient in zip(paths, gradients) if not np.any(gradient)]
  # A bias of keys adds the same to all logits of a query.
  assert not [path for path in idle if not path.endswith('attention/key/bias')], idle


@pytest.mark.parametrize('kind', ['FPN with encoder', 'BIFPN', 'FAPN'])
def test_recomputation_changes_nothing(kind):
  inputs = _inputs()
  expected, expected_gradients = _gradients(_decoder(KINDS[kind]), inputs)
  decoder = _decoder(KINDS[kind], recomputed=True)
  graph = tf.function(_gradients, autograph=False).get_concrete_function(decoder, inputs).graph
  assert any('recomputed' in operation.name for operation in graph.get_operations())
  found, gradients = _gradients(decoder, inputs)
  for a, b in zip([*found, *gradients], [*expected, *expected_gradients]):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_mixed_precision_computes_in_it_on_float32_variables(options):
  with policy('mixed_bfloat16'):
    mixed = _decoder(options)
  assert {v.dtype for v in mixed.variables} == {tf.float32}
  expected = _decoder(options)(_inputs())
  for found, exact in zip(tf.nest.flatten(mixed(_inputs(dtype=tf.bfloat16))),
                          tf.nest.flatten(expected)):
    assert found.dtype == tf.bfloat16
    difference = np.abs(tf.cast(found, tf.float32) - exact)
    assert difference.max() < 0.15 * np.abs(exact).max()
    assert difference.mean() < 0.02 * np.abs(exact).max()


def test_other_strides_are_refused(options):
  features = [*FEATURES[:3], Feature('res5', 16, 6)]
  with pytest.raises(ConfigError, match='needs features of strides 4, 8, 16 and 32'):
    _decoder(options, features)


def test_channels_divide_into_the_groups_of_the_norms(options):
  with pytest.raises(ConfigError, match='40 channels do not divide into 32 groups'):
    _decoder({**options, 'channels': 40})


@pytest.mark.parametrize('options, message', [
    ({'kind': 'BIFPN', 'num_encoder_layers': 1},
     'mask2former.pixel_decoder.num_encoder_layers is 1, and kind is BIFPN: only FPN has an '
     'encoder; remove it or set the kind to FPN'),
    ({'kind': 'FPN', 'dropout_rate': 0.5},
     'mask2former.pixel_decoder.dropout_rate is 0.5, and num_encoder_layers is 0: only encoder '
     'layers of FPN have dropout; remove it or set num_encoder_layers'),
    ({'num_fusion_layers': 9},
     'mask2former.pixel_decoder.num_fusion_layers is set, and kind is DEFORMABLE_ATTENTION: only '
     'BIFPN has fusion layers; remove it or set the kind to BIFPN')])
def test_an_option_that_only_another_kind_has_is_refused(options, message):
  with pytest.raises(ConfigError) as error:
    _decoder(options)
  assert str(error.value) == message
