"""The exported function equals DeepLab2's on a real checkpoint and an image of another size."""

import numpy as np
import pytest
import shared
import tensorflow as tf

import deeplab_tf
from deeplab_tf.checkpoints import convert
from deeplab_tf.data import catalog
from deeplab_tf.export import serving_module

pytestmark = pytest.mark.parity

RAW_OUTPUTS = {
    'pixel_space_mask_logits': 'mask_logits',
    'pixel_space_normalized_feature': 'pixel_features',
    'transformer_class_logits': 'class_logits',
}


@pytest.fixture(scope='module')
def recorded():
  folder = shared.path('parity', 'deeplab2', 'checkpoint_small_max_deeplab')
  config = deeplab_tf.load_config(folder / 'model.textproto')
  model = deeplab_tf.build_model(config)
  convert.load_reference_weights(
      model, 'deeplab2', convert.read_tensorflow_weights(str(folder / 'ckpt')))
  module = serving_module.build(config, catalog.from_config(config), model)
  return module, model, dict(np.load(folder / 'export_io.npz'))


def test_raw_outputs_equal_deeplab2(recorded):
  module, model, arrays = recorded
  inputs, _ = module.prepare(tf.constant(arrays['image'][None]))
  outputs = model(inputs, training=False)
  for name, ours in RAW_OUTPUTS.items():
    expected = arrays[f'out|{name}']
    error = np.abs(outputs[ours].numpy() - expected).max()
    assert error < 1e-4 * np.abs(expected).max(), name


def test_maps_at_the_images_own_size_equal_deeplab2(recorded):
  module, _, arrays = recorded
  outputs = module.predict(arrays['image'][None])
  panoptic = outputs['panoptic_map'].numpy()
  assert panoptic.shape == arrays['out|panoptic_pred'].shape
  assert np.mean(panoptic != arrays['out|panoptic_pred']) < 1e-3
