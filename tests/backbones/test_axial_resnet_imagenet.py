"""The Axial-ResNets for ImageNet equal the authors' PyTorch code; properties of their parts."""

import json
import pathlib

import numpy as np
import pytest
import shared
import tensorflow as tf
import torch_files

import deeplab_tf
from deeplab_tf.checkpoints import convert, reference
from deeplab_tf.layers.variable_paths import variables_by_path

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs' / 'imagenet'


def _case(name):
  """The description of a recorded case, its weights by their names, and its arrays."""
  folder = shared.path('parity', 'axial_deeplab')
  description = json.loads((folder / f'weights_{name}.json').read_text())
  recipe, prefix = shared.recipe(), description['weight_name_prefix']
  weights = {w['name']: recipe.weight(prefix + w['name'], w['shape'], w['role'], w.get('fan_in'))
             for w in description['weights']}
  return description, weights, np.load(folder / f'outputs_{name}.npz')


def _assert_near(actual, expected, what):
  error = np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max()
  assert error < 1e-4, f'{what}: {error:.1e}'


def _recorded_tensors(backbone, images):
  """The tensors of a forward pass that are recorded, by their names in the PyTorch code."""
  found = {}

  def listen(layer, name, keeps_input=False):
    call = layer.call

    def recording(x, *args, **kwargs):
      y = call(x, *args, **kwargs)
      found[name] = (x if keeps_input else y).numpy()
      return y
    layer.call = recording

  first, second = (stage.blocks[0].attention for stage in backbone.stages[:2])
  listen(backbone.stages[0], 'maxpool', keeps_input=True)
  listen(first.height_axis, 'layer1.0.hight_block')
  listen(first, 'layer1.0.width_block')
  listen(second, 'layer2.0.width_block')
  features = backbone(tf.constant(images))
  # The PyTorch code activates these in place, and they were recorded behind that.
  for name in ('layer1.0.width_block', 'layer2.0.width_block'):
    found[name] = np.maximum(found[name], 0)
  # Along the height, the rows of a batch are the columns of the image.
  found['layer1.0.hight_block'] = found['layer1.0.hight_block'].transpose(1, 0, 2)[None]
  found.update({f'layer{level - 1}': features[f'res{level}'].numpy() for level in range(2, 6)})
  return found


@pytest.mark.parity
@pytest.mark.parametrize('name', ['axial26s', 'axial50s'])
def test_the_network_equals_the_pytorch_code(name):
  description, weights, recorded = _case(name)
  model = deeplab_tf.build_model(deeplab_tf.load_config(CONFIGS / f'{name[:-1]}_s.textproto'))
  assert sum(v.shape.num_elements() for v in model.trainable_variables) == description['parameters']
  reference.load_reference_weights(model, 'axial_deeplab', weights)
  images = shared.recipe().image(description['image_name'], *description['image_size'])[None]
  _assert_near(model(images)['class_logits'], recorded['logits'], 'logits')
  found, compared = _recorded_tensors(model.backbone, images), set()
  for key in recorded:
    what, _, kind = key.partition('|')
    if kind == 'val':
      actual = found[what]
      assert list(actual.shape) == list(recorded[f'{what}|shape'])
      _assert_near(actual.reshape(-1)[recorded[f'{what}|idx']], recorded[key], what)
      compared.add(what)
  assert compared == set(found)


@pytest.mark.parity
def test_a_pytorch_file_becomes_a_checkpoint(tmp_path):
  _, weights, _ = _case('axial26s')
  config = deeplab_tf.load_config(CONFIGS / 'axial26_s.textproto')
  # As saved by a training on several GPUs.
  torch_files.save(tmp_path / 'x.pth', {
      **{f'module.{name}': value for name, value in weights.items()},
      'module.bn1.num_batches_tracked': np.array(5, np.int64)}, 'state_dict')
  model = deeplab_tf.build_model(config)
  prefix, account = convert.convert(model, 'axial_deeplab', str(tmp_path / 'x.pth'),
                                    str(tmp_path / 'ckpt-0'))
  assert set(account.used) == set(variables_by_path(model)) and not account.initialized
  assert account.skipped == ['module.bn1.num_batches_tracked']
  assert f'{len(account.used)} variables from {len(weights)} weights' in account.lines()[0]
  np.testing.assert_array_equal(
      tf.train.load_variable(prefix, 'model/classifier/bias/.ATTRIBUTES/VARIABLE_VALUE'),
      weights['fc.bias'])


def _tiny(name, more=''):
  """The classifier of a variant at a quarter of its width and a third of its blocks."""
  return deeplab_tf.build_model(deeplab_tf.load_config(CONFIGS / 'axial_resnet_s.textproto', [
      f'model_options {{ backbone {{ name: "{name}" stem_width_multiplier: 0.25 '
      f'backbone_width_multiplier: 0.25 backbone_layer_multiplier: 0.34 {more} }} }} '
      'train_dataset_options { imagenet { num_classes: 3 } }'
      'eval_dataset_options { imagenet { num_classes: 3 } }']))


@pytest.mark.parametrize('name', ['conv_stem_axial_resnet', 'full_axial_resnet',
                                  'conv_stem_attention', 'axial26',
                                  'inception_stem_axial_resnet', 'inception_stem_attention'])
def test_every_variable_learns_at_any_size(name):
  model = _tiny(name)
  # Branches start at zero (gamma of their last batch norm), and nothing would reach inside.
  for path, variable in variables_by_path(model).items():
    if path.endswith('conv3/norm/gamma'):
      variable.assign(tf.ones_like(variable))
  images = tf.random.stateless_normal([2, 50, 67, 3], [0, 1])
  with tf.GradientTape() as tape:
    logits = model(images, training=True)['class_logits']
    loss = tf.reduce_sum(logits * [[1.0, -2, 3]])
  assert logits.shape == (2, 3)
  variables = model.trainable_variables
  for variable, gradient in zip(variables, tape.gradient(loss, variables)):
    assert gradient is not None and np.isfinite(tf.convert_to_tensor(gradient)).all(), variable.name
  features = model.backbone(images)
  assert [features[f'res{i}'].shape[1:3].as_list() for i in range(1, 6)] == [
      [25, 34], [13, 17], [7, 9], [4, 5], [2, 3]]


def test_a_full_axial_network_sees_dark_and_bright():
  """Images are not activated on their way in, so that negative values count."""
  model = _tiny('full_axial_resnet')
  images = -tf.random.stateless_uniform([1, 33, 33, 3], [0, 1])
  logits = [model(x)['class_logits'].numpy() for x in (images, images * 0.5)]
  assert not np.allclose(*logits, rtol=1e-6)


def test_a_config_changes_the_form_of_the_attention():
  plain = _tiny('conv_stem_axial_resnet')
  changed = _tiny('conv_stem_axial_resnet', 'attention { span: 3 key_positions: false }')
  names, other = (set(variables_by_path(model)) for model in (plain, changed))
  assert other < names
  assert all('/key_positions/' in path for path in names - other)
  layer = changed.backbone.stages[0].blocks[0].attention.height_axis
  assert layer.options.span == 3 and layer.options.value_positions
  assert _tiny('conv_stem_axial_resnet', 'attention { num_heads: 2 }').backbone.stages[0].blocks[
      0].attention.height_axis.num_heads == 2
  # Also of DeepLab2's networks.
  layer = _tiny('axial_deeplab_s', 'attention { span: 5 }').backbone.stages[3].blocks[0].attention
  assert layer.width_axis.options.span == 5
  # Loading a config refuses even numbers; what a variant's attention needs, building does.
  with pytest.raises(ValueError, match=r'backbone.attention.span is 4: it must be an odd number'):
    _tiny('conv_stem_axial_resnet', 'attention { span: 4 }')
  with pytest.raises(ValueError, match=r'backbone.attention.span is 0: local attention needs'):
    _tiny('conv_stem_attention', 'attention { span: 0 }')
  with pytest.raises(ValueError, match='do not divide into 7 heads'):
    _tiny('conv_stem_axial_resnet', 'attention { num_heads: 7 }')
  with pytest.raises(ValueError, match='attention is set, but resnet50 has no'):
    _tiny('resnet50', 'attention { span: 5 }')


@pytest.mark.parametrize('name', ['axial_deeplab_s', 'conv_stem_axial_resnet'])
def test_axes_longer_than_the_tables_run_with_a_span(name):
  model = _tiny(name, 'attention { span: 3 }')
  assert np.isfinite(model(tf.zeros([1, 33, 1100, 3]))['class_logits']).all()
