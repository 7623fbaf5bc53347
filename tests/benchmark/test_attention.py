"""The benchmark finds each form of attention in a network."""

import pytest
import tensorflow as tf
import tiny_centers

import deeplab_tf
from deeplab_tf.benchmark import attention
from deeplab_tf.layers.axial_attention import AxialAttention1D
from deeplab_tf.layers.local_attention import LocalAttention2D
from deeplab_tf.layers.position_sensitive import PositionSensitiveAttention

_BACKBONE = 'model_options { backbone { name: "%s" backbone_width_multiplier: 0.25 } }'


def _forms(folder, backbone):
  config = deeplab_tf.load_config(tiny_centers.write_config(folder), [_BACKBONE % backbone])
  model = deeplab_tf.build_model(config)
  layers = [layer for layer in model.submodules if isinstance(layer, PositionSensitiveAttention)]
  return attention.find(config, (65, 81)), layers


@pytest.mark.slow
def test_every_layer_is_counted_once_with_the_size_of_its_input(tmp_path):
  forms, layers = _forms(tmp_path, 'axial_deeplab_s')
  assert sum(forms.values()) == len(layers) >= 8
  # The first block has maps of 33x41 and leaves out every second row before it looks along them.
  assert {form.shape[:2] for form in forms} >= {(41, 33), (17, 41)}
  for form in forms:
    layer = form.make()
    assert isinstance(layer, AxialAttention1D)
    assert layer(tf.zeros(form.shape)).shape == (*form.shape[:2], form.value_channels)
    shapes = [v.shape for v in layer.variables]
    assert shapes in [[v.shape for v in other.variables] for other in layers]


def test_local_attention_is_measured_over_the_map(tmp_path):
  forms, layers = _forms(tmp_path, 'conv_stem_attention')
  assert sum(forms.values()) == len(layers)
  form = next(iter(forms))
  assert form.shape[:3] == (1, 17, 21) and isinstance(form.make(), LocalAttention2D)
  assert str(form).startswith('local 17x21, ') and str(form).endswith('span 7')


def test_a_train_step_needs_all_gradients(tmp_path):
  form = next(iter(_forms(tmp_path, 'axial_deeplab_s')[0]))
  layer, x = form.make(), tf.random.normal(form.shape, seed=0)
  before = layer.norm_qkv.moving_mean.numpy()
  assert tf.math.is_finite(attention.train(layer, x))
  assert (layer.norm_qkv.moving_mean.numpy() != before).any()
  with tf.GradientTape() as tape:
    tape.watch(x)
    loss = attention.infer(layer, x)
  assert tf.reduce_any(tape.gradient(loss, x) != 0)
