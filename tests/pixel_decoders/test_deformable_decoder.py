"""Mask2Former's pixel decoder: shapes, equations, precision, and recorded numbers."""

import json
import math

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.precision import policy
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.pixel_decoders import deformable_decoder
from deeplab_tf.pixel_decoders.deformable_decoder import (
    DeformableEncoderLayer,
    DeformablePixelDecoder,
    pixel_centers,
)
from deeplab_tf.user_errors import ConfigError

FEATURES = (Feature('res2', 4, 3), Feature('res3', 8, 5), Feature('res4', 16, 4),
            Feature('res5', 32, 6))
# Ends of the paths of a decoder's variables, and of PyTorch's names.
_NAMES = (
    ('input_projections/{}/kernel', 'input_proj.{}.0.weight'),
    ('input_projections/{}/bias', 'input_proj.{}.0.bias'),
    ('input_projections/{}/norm/gamma', 'input_proj.{}.1.weight'),
    ('input_projections/{}/norm/beta', 'input_proj.{}.1.bias'),
    ('level_embedding', 'transformer.level_embed'),
    ('lateral/kernel', 'adapter_1.weight'),
    ('lateral/norm/gamma', 'adapter_1.norm.weight'),
    ('lateral/norm/beta', 'adapter_1.norm.bias'),
    ('fuse/kernel', 'layer_1.weight'),
    ('fuse/norm/gamma', 'layer_1.norm.weight'),
    ('fuse/norm/beta', 'layer_1.norm.bias'),
    ('mask_projection/kernel', 'mask_features.weight'),
    ('mask_projection/bias', 'mask_features.bias'))
_LAYER_NAMES = (
    ('attention/offsets', 'self_attn.sampling_offsets'),
    ('attention/attention_weights', 'self_attn.attention_weights'),
    ('attention/values', 'self_attn.value_proj'),
    ('attention/outputs', 'self_attn.output_proj'),
    ('fc1', 'linear1'), ('fc2', 'linear2'), ('norm1', 'norm1'), ('norm2', 'norm2'))


def _decoder(features=FEATURES, **options):
  """Returns a narrow decoder; all of its variables are random, also those that start at 0."""
  decoder = DeformablePixelDecoder(features, **{
      'channels': 32, 'mask_channels': 7, 'num_layers': 2, 'num_heads': 4, 'num_points': 2,
      'feed_forward_channels': 24, **options})
  random = np.random.default_rng(0)
  for path, variable in sorted(variables_by_path(decoder).items()):
    value = 0.3 * random.standard_normal(variable.shape)
    variable.assign(value + 1 if path.endswith('gamma') else value)
  return decoder


def _inputs(height=50, width=41, batch=2):
  return {f.name: tf.random.stateless_normal(
      [batch, -(-height // f.stride), -(-width // f.stride), f.channels], [0, f.stride])
      for f in FEATURES}


@pytest.mark.parametrize('size', [(64, 96), (50, 41), (33, 130), (3, 5)])
def test_shapes_at_odd_sizes(size):
  levels, mask_features, _ = _decoder()(_inputs(*size))
  assert [x.shape.as_list() for x in (*levels, mask_features)] == [
      [2, -(-size[0] // stride), -(-size[1] // stride), channels]
      for stride, channels in ((32, 32), (16, 32), (8, 32), (4, 7))]
  for x in (*levels, mask_features):
    assert x.dtype == tf.float32 and np.isfinite(x).all()


def test_sizes_unknown_while_tracing_give_the_same_features():
  decoder, inputs = _decoder(), _inputs()
  run = tf.function(decoder, autograph=False, input_signature=[
      {f.name: tf.TensorSpec([None, None, None, f.channels]) for f in FEATURES}])
  expected, found = decoder(inputs), run(inputs)
  for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected)):
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.slow
def test_xla_computes_the_same_features():
  decoder, inputs = _decoder(), _inputs()
  found = tf.function(decoder, autograph=False, jit_compile=True)(inputs)
  for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(decoder(inputs))):
    np.testing.assert_allclose(a, b, atol=5e-5)


def test_pixel_centers_are_parts_of_width_and_height():
  np.testing.assert_allclose(pixel_centers(2, 3), [
      [1 / 6, 0.25], [0.5, 0.25], [5 / 6, 0.25], [1 / 6, 0.75], [0.5, 0.75], [5 / 6, 0.75]],
      atol=1e-7)


def test_mask_features_are_an_fpn_step_on_the_finest_level():
  decoder, inputs = _decoder(), _inputs()
  levels, mask_features, _ = decoder(inputs)
  upsampled = tf.image.resize(levels[2], [13, 11], 'bilinear', antialias=False)
  lateral = decoder.lateral.norm(tf.nn.conv2d(inputs['res2'], decoder.lateral.kernel, 1, 'SAME'))
  fused = tf.nn.conv2d(lateral + upsampled, decoder.fuse.kernel, 1, 'SAME')
  fused = tf.nn.relu(decoder.fuse.norm(fused))
  expected = tf.nn.conv2d(fused, decoder.mask_projection.kernel, 1, 'SAME')
  expected += decoder.mask_projection.bias
  np.testing.assert_allclose(mask_features, expected, atol=2e-5)


def test_without_layers_levels_are_the_projected_features():
  decoder, inputs = _decoder(num_layers=0), _inputs()
  for level, name, projection in zip(decoder(inputs).levels, ('res5', 'res4', 'res3'),
                                     decoder.input_projections):
    x = tf.nn.conv2d(inputs[name], projection.kernel, 1, 'SAME') + projection.bias
    np.testing.assert_allclose(level, projection.norm(x), atol=1e-5)


def test_a_position_is_embedding_of_the_pixel_plus_that_of_its_level(monkeypatch):
  decoder, inputs = _decoder(num_layers=1), _inputs()
  calls = []
  layer = decoder.encoder_layers[0]
  monkeypatch.setattr(layer, 'call', lambda *arguments: calls.append(arguments) or arguments[0])
  decoder(inputs)
  (_, positions, references, sizes), = calls
  assert sizes == [(2, 2), (4, 3), (7, 6)]
  start = 0
  for i, (height, width) in enumerate(sizes):
    part = slice(start, start + height * width)
    expected = deformable_decoder.sine_position_embedding(height, width, 32)
    expected = tf.reshape(expected, [-1, 32]) + decoder.level_embedding[i]
    np.testing.assert_allclose(positions[part], expected, atol=1e-6)
    np.testing.assert_array_equal(references[part], pixel_centers(height, width))
    start += height * width


def _gradients(decoder, inputs, training=True):
  with tf.GradientTape() as tape:
    outputs = tf.nest.flatten(decoder(inputs, training=training))
    loss = tf.add_n([tf.reduce_sum(x * tf.random.stateless_normal(x.shape, [1, i]))
                     for i, x in enumerate(outputs)])
  return outputs, tape.gradient(loss, decoder.trainable_variables)


def test_every_variable_gets_a_gradient():
  # Two channels per group, since group norm of a single channel removes the bias before it.
  decoder = _decoder(channels=64)
  _, gradients = _gradients(decoder, _inputs())
  assert len(gradients) == len(decoder.variables) == len(variables_by_path(decoder))
  for variable, gradient in zip(decoder.trainable_variables, gradients):
    assert gradient is not None and np.any(gradient), variable.name


def test_recomputation_changes_nothing():
  inputs = _inputs()
  expected, expected_gradients = _gradients(_decoder(channels=64), inputs)
  for run in (_gradients, tf.function(_gradients, autograph=False)):
    found, gradients = run(_decoder(channels=64, recompute=True), inputs)
    for a, b in zip([*found, *gradients], [*expected, *expected_gradients]):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_mixed_precision_computes_in_float32():
  with policy('mixed_bfloat16'):
    mixed = _decoder()
  assert {v.dtype for v in mixed.variables} == {tf.float32}
  halves = {name: tf.cast(x, tf.bfloat16) for name, x in _inputs().items()}
  rounded = {name: tf.cast(x, tf.float32) for name, x in halves.items()}
  expected, found = _decoder()(rounded), mixed(halves)
  for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected)):
    assert a.dtype == tf.bfloat16
    np.testing.assert_array_equal(a, tf.cast(b, tf.bfloat16))


def test_initial_values():
  keras.utils.set_random_seed(0)
  decoder = DeformablePixelDecoder(FEATURES, channels=64, mask_channels=48)
  bounds = {decoder.lateral: 3 / 3, decoder.fuse: 3 / (9 * 64), decoder.mask_projection: 3 / 64,
            decoder.input_projections[0]: 6 / (6 + 64), decoder.input_projections[2]: 6 / (5 + 64)}
  layer = decoder.encoder_layers[5]
  bounds.update({layer.fc1: 6 / (64 + 1024), layer.fc2: 6 / (64 + 1024),
                 layer.attention.values: 6 / 128})
  for projection, squared in bounds.items():
    largest = np.abs(projection.kernel).max()
    assert 0.9 * math.sqrt(squared) < largest <= math.sqrt(squared)
  for projection in (decoder.mask_projection, *decoder.input_projections, layer.attention.outputs):
    assert not np.any(projection.bias)
  for projection, inputs in ((layer.fc1, 64), (layer.fc2, 1024)):
    assert 0.9 < np.abs(projection.bias).max() * math.sqrt(inputs) <= 1
  assert 0.8 < np.std(decoder.level_embedding) < 1.2
  assert len({v.numpy().tobytes() for v in (
      other.fc1.kernel for other in decoder.encoder_layers)}) == 6


@pytest.mark.parametrize('features,message', [
    (FEATURES[1:], 'needs features of strides 4, 8, 16 and 32: the backbone has res3 of stride 8'),
    ((*FEATURES[:3], Feature('res5', 16, 6)), 'res5 of stride 16; choose another backbone'),
    ((), 'the backbone has none')])
def test_other_features_are_refused(features, message):
  with pytest.raises(ConfigError, match=message):
    DeformablePixelDecoder(features)


def test_channels_that_do_not_divide_are_refused():
  with pytest.raises(ConfigError, match='48 channels do not divide into 32 groups'):
    DeformablePixelDecoder(FEATURES, channels=48)
  with pytest.raises(ConfigError, match='64 channels do not divide into 3 heads'):
    DeformablePixelDecoder(FEATURES, channels=64, num_heads=3)


# === Recorded numbers ===


def _source_names(decoder):
  """Returns path -> PyTorch's name below 'pixel_decoder.' of every variable."""
  names = {path.format(i): name.format(i) for path, name in _NAMES for i in range(3)}
  for i in range(len(decoder.encoder_layers)):
    for path, name in _LAYER_NAMES:
      for kind, there in _kinds(path):
        names[f'encoder_layers/{i}/{path}/{kind}'] = (
            f'transformer.encoder.layers.{i}.{name}.{there}')
  return names


def _kinds(path):
  """Returns the names of a layer's variables, each with PyTorch's."""
  return zip(('gamma', 'beta') if 'norm' in path else ('kernel', 'bias'), ('weight', 'bias'))


def _described(*parts):
  """Returns the entries of the pixel decoder in a description of weights, by name."""
  description = json.loads(shared.path('parity', 'mask2former', *parts).read_text())
  prefix = 'sem_seg_head.pixel_decoder.'
  return {entry['name'].removeprefix(prefix): entry for entry in description['weights']
          if entry['name'].startswith(prefix)}


def _torch_layout(shape):
  """Returns the shape that a kernel of a convolution or of a linear layer has in PyTorch."""
  return list(np.roll(shape, 2)[[1, 0, 2, 3]] if len(shape) == 4 else shape[::-1])


@pytest.mark.parity
def test_parameters_of_the_released_decoder():
  entries = _described('weights_r50.json')
  features = [Feature(f'res{i}', 2**i, 2**(6 + i)) for i in range(2, 6)]
  with tf.Graph().as_default():  # Variables without values.
    decoder = DeformablePixelDecoder(features)
    shapes = {path: v.shape.as_list() for path, v in variables_by_path(decoder).items()}
  names = _source_names(decoder)
  assert {names[path] for path in shapes} == set(entries)
  for path, shape in shapes.items():
    expected = entries[names[path]]['shape']
    assert (_torch_layout(shape) if path.endswith('kernel') else shape) == expected, path
  count = sum(math.prod(shape) for shape in shapes.values())
  assert count == sum(math.prod(entry['shape']) for entry in entries.values()) == 6035904


@pytest.mark.parity
@pytest.mark.parametrize('backbone,num_layers,num_heads', [('r50', 2, 4), ('swin', 1, 8)])
def test_recorded_features(backbone, num_layers, num_heads):
  folder = f'checkpoint_tiny_{backbone}'
  recorded = np.load(shared.path('parity', 'mask2former', folder, 'expected.npz'))
  inputs = {name: tf.constant(recorded[name].transpose(0, 2, 3, 1))
            for name in ('res2', 'res3', 'res4', 'res5')}
  decoder = DeformablePixelDecoder(
      [Feature(name, 2**(i + 2), x.shape[-1]) for i, (name, x) in enumerate(inputs.items())],
      channels=64, mask_channels=32, num_layers=num_layers, num_heads=num_heads)
  entries, recipe = _described(folder, 'weights.json'), shared.recipe()
  names = _source_names(decoder)
  for path, variable in variables_by_path(decoder).items():
    entry = entries.pop(names[path])
    value = recipe.weight(entry.get('seed', entry['name']), entry['shape'], entry['role'],
                          entry.get('fan_in'))
    if path.endswith('kernel'):
      value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    variable.assign(value)
  assert not entries
  output = decoder(inputs)
  for name, found in (*((f'multi_scale_{i}', x) for i, x in enumerate(output.levels)),
                      ('mask_features', output.mask_features)):
    np.testing.assert_allclose(found, recorded[name].transpose(0, 2, 3, 1), atol=2e-5,
                               err_msg=name)


@pytest.mark.parity
def test_recorded_encoder_layer():
  arrays = np.load(shared.path('parity', 'mask2former', 'ops.npz'))
  arrays = {key.split('/')[1]: arrays[key] for key in arrays
            if key.startswith('msda_encoder_layer/')}
  layer = DeformableEncoderLayer(32, num_heads=4, num_points=4, feed_forward_channels=48)
  weights = {f'{path}/{kind}': arrays[f'w:{name}.{there}'] for path, name in _LAYER_NAMES
             for kind, there in _kinds(path)}
  for path, variable in variables_by_path(layer).items():
    variable.assign(weights[path].T)
  sizes = [tuple(int(n) for n in size) for size in arrays['spatial_shapes']]
  references = tf.concat([pixel_centers(*size) for size in sizes], 0)
  np.testing.assert_allclose(references, arrays['reference_points'][1, :, 2], atol=1e-6)
  # Positions are the same for all images in the network; here they differ.
  for i in range(2):
    output = layer(arrays['src'][i:i + 1], arrays['pos'][i], references, sizes)
    np.testing.assert_allclose(output[0], arrays['output'][i], atol=2e-5)
