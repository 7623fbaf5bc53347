"""FPN and Semantic FPN as pixel decoders: equations and recorded numbers."""

import numpy as np
import plain_maps
import pytest
import shared
import tensorflow as tf

from deeplab_tf.layers.features import Feature
from deeplab_tf.layers.transformer_encoder import TransformerEncoder
from deeplab_tf.layers.variable_paths import variables_by_path
from deeplab_tf.pixel_decoders.fpn_decoder import FPNDecoder
from deeplab_tf.pixel_decoders.semantic_fpn_decoder import SemanticFPNDecoder

FEATURES = (Feature('res2', 4, 3), Feature('res3', 8, 5), Feature('res4', 16, 4),
            Feature('res5', 32, 6))


def _inputs(height=50, width=41):
  return {f.name: np.random.default_rng(f.stride).standard_normal(
      [2, -(-height // f.stride), -(-width // f.stride), f.channels]).astype(np.float32)
      for f in FEATURES}


def _levels(decoder, inputs, coarsest):
  """Returns the pyramid, from stride 32 to stride 4."""
  levels = [plain_maps.block(decoder.outputs[0], coarsest, activated=True)]
  for i, name in enumerate(('res4', 'res3', 'res2')):
    lateral = plain_maps.block(decoder.laterals[i], inputs[name])
    x = lateral + plain_maps.nearest(levels[-1], lateral.shape[1:3])
    levels.append(plain_maps.block(decoder.outputs[i + 1], x, activated=True))
  return levels


def _assert_close(output, levels, mask_features):
  for found, expected in zip((*output.levels, output.mask_features), (*levels[:3], mask_features)):
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_levels_are_sums_of_laterals_and_upsampled_levels():
  decoder, inputs = FPNDecoder(FEATURES, channels=64, mask_channels=7), _inputs()
  plain_maps.randomize(decoder)
  levels = _levels(decoder, inputs, inputs['res5'])
  _assert_close(decoder(inputs), levels, plain_maps.block(decoder.mask_projection, levels[-1]))
  assert decoder.mask_projection.kernel.shape == (3, 3, 64, 7)


def test_an_encoder_takes_the_place_of_the_coarsest_feature():
  encoder = TransformerEncoder(6, 64, num_layers=1, num_heads=2, feed_forward_channels=10)
  decoder, inputs = FPNDecoder(FEATURES, channels=64, mask_channels=7, encoder=encoder), _inputs()
  plain_maps.randomize(decoder)
  output, encoded = decoder(inputs), encoder(inputs['res5']).numpy()
  np.testing.assert_allclose(output.coarsest, encoded, atol=1e-5)
  levels = _levels(decoder, inputs, encoded)
  _assert_close(output, levels, plain_maps.block(decoder.mask_projection, levels[-1]))
  assert decoder.coarsest_channels == 64


def test_semantic_fpn_merges_levels_by_convolutions_and_upsampling():
  decoder, inputs = SemanticFPNDecoder(FEATURES, channels=64, mask_channels=7), _inputs()
  plain_maps.randomize(decoder)
  levels = _levels(decoder, inputs, inputs['res5'])
  sizes = [level.shape[1:3] for level in levels]
  merged = 0
  for i, (x, count) in enumerate(zip(levels, (3, 2, 1, 1))):
    convolutions = decoder.branches[i].convolutions
    assert len(convolutions) == count
    for step, convolution in enumerate(convolutions):
      x = plain_maps.block(convolution, x, activated=True)
      x = plain_maps.bilinear(x, sizes[min(i + step + 1, 3)])
    merged = merged + x / 4
  _assert_close(decoder(inputs), levels, plain_maps.block(decoder.mask_projection, merged))


def test_the_merged_levels_of_a_new_semantic_fpn_have_the_scale_of_a_level():
  decoder = SemanticFPNDecoder(FEATURES, channels=64, mask_channels=7)
  levels = [tf.nn.relu(tf.random.stateless_normal([2, *size, 64], [0, i]))
            for i, size in enumerate(((2, 3), (4, 5), (8, 9), (15, 17)))]
  scale, expected = (float(tf.sqrt(tf.reduce_mean(x**2)))
                     for x in (decoder.merge(levels), levels[-1]))
  assert 0.5 < scale / expected < 1.5


# === Recorded numbers ===


def _name(path):
  """Returns the name in the released code of a variable without its last part."""
  first, *others = path.split('/')[:-1]
  if first in ('laterals', 'outputs'):
    number, *norm = others
    name = f'adapter_{3 - int(number)}' if first == 'laterals' else f'layer_{4 - int(number)}'
    return '.'.join([name, *norm])
  if first == 'mask_projection':
    return 'mask_features'
  if others[0] == 'input_projection':
    return 'input_proj'
  _, number, part, *rest = others
  part = {'attention': 'self_attn', 'fc1': 'linear1', 'fc2': 'linear2'}.get(part, part)
  rest = ['out_proj' if name == 'output_projection' else name for name in rest]
  return '.'.join(['transformer.encoder.layers', number, part, *rest])


def _recorded(name, weights):
  """Returns the recorded value of a variable, in the layout of this library."""
  module, kind = _name(name), name.split('/')[-1]
  kind = 'weight' if kind in ('kernel', 'gamma') else 'bias'
  third = module.rpartition('.')[-1]
  if third in ('query', 'key', 'value'):
    joint = weights[f'{module.rpartition(".")[0]}.in_proj_{kind}']
    value = np.split(joint, 3)[('query', 'key', 'value').index(third)]
  else:
    value = weights[f'{module}.{kind}']
  return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


@pytest.mark.parity
@pytest.mark.parametrize('case', ['fpn_pixel_decoder', 'transformer_encoder_fpn_pixel_decoder'])
def test_features_are_those_of_the_released_code(case):
  with np.load(shared.path('parity', 'mask2former', 'ops.npz')) as file:
    arrays = {name[len(case) + 1:]: file[name] for name in file if name.startswith(f'{case}/')}
  weights = {name[2:]: value for name, value in arrays.items() if name.startswith('w:')}
  features = {f'res{i}': tf.constant(arrays[f'res{i}'].transpose(0, 2, 3, 1)) for i in range(2, 6)}
  encoder = None
  if 'num_heads' in arrays:
    encoder = TransformerEncoder(40, 32, num_layers=2, num_heads=int(arrays['num_heads']),
                                 feed_forward_channels=64)
  decoder = FPNDecoder([Feature(name, 2**(i + 2), x.shape[-1])
                        for i, (name, x) in enumerate(features.items())],
                       channels=32, mask_channels=16, encoder=encoder)
  variables = variables_by_path(decoder)
  for path, variable in variables.items():
    variable.assign(_recorded(path, weights))
  # Query, key and value are one matrix and one bias there.
  assert len(variables) == len(weights) + 4 * len(encoder.encoder_layers if encoder else ())
  output = decoder(features)
  found = {'mask_features': output.mask_features,
           **{f'multi_scale_{i}': level for i, level in enumerate(output.levels)}}
  if encoder:
    found['transformer_encoder_features'] = output.coarsest
  for name, value in found.items():
    np.testing.assert_allclose(value, arrays[name].transpose(0, 2, 3, 1), atol=2e-5, err_msg=name)
