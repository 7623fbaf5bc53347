"""Predictions averaged over scales and mirrored images."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_centers

from deeplab_tf import models
from deeplab_tf.compat import keras
from deeplab_tf.config import load_config
from deeplab_tf.config_text import ConfigError
from deeplab_tf.data import catalog
from deeplab_tf.layers.aspp import ASPP
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.resizing import resize_bilinear, resize_offsets
from deeplab_tf.postprocessing.averaged_passes import AveragedPasses

SIZE = (33, 41)


class _LeftAndRight(keras.Model):
  """Tells of each pixel its colors, and points one pixel down and two to the right."""

  def __init__(self):
    super().__init__()
    self.sizes = []

  def call(self, images, training=False):
    assert training is False
    self.sizes.append(tuple(images.shape[1:3]))
    low = resize_bilinear(images, [(n + 3) // 4 for n in images.shape[1:3]])
    offsets = tf.tile(tf.constant([[[[1.0, 2.0]]]]), [*low.shape[:3], 1])
    return {'semantic_logits': low, 'center_heatmap': low[..., :1], 'center_offsets': offsets}


def _images(seed=0):
  coarse = tf.random.stateless_normal([2, 5, 6, 3], [seed, 1])
  return resize_bilinear(coarse, SIZE)


def test_the_mean_is_that_of_each_pass_at_full_resolution():
  model, images = _LeftAndRight(), _images()
  found = AveragedPasses(model, (0.5, 1.0), add_flipped=True)(images)
  assert model.sizes == [(17, 21), (17, 21), (33, 41), (33, 41)]
  heat, probabilities, offsets = [], [], []
  for size in ((17, 21), (33, 41)):
    for step in (1, -1):
      outputs = model(resize_bilinear(images, size)[:, :, ::step])
      heat.append(resize_bilinear(outputs['center_heatmap'], SIZE)[:, :, ::step])
      logits = resize_bilinear(outputs['semantic_logits'], SIZE)[:, :, ::step]
      probabilities.append(tf.nn.softmax(logits))
      vectors = resize_offsets(outputs['center_offsets'], SIZE)[:, :, ::step]
      offsets.append(vectors * [1.0, step])
  np.testing.assert_allclose(found['center_heatmap'], np.mean(heat, 0), atol=1e-5)
  np.testing.assert_allclose(np.exp(found['semantic_logits']), np.mean(probabilities, 0),
                             atol=1e-6)
  np.testing.assert_allclose(found['center_offsets'], np.mean(offsets, 0), atol=1e-5)
  # What leads to the right in one pass leads to the left in the other.
  np.testing.assert_allclose(found['center_offsets'][..., 1], 0, atol=1e-5)


def test_one_plain_pass_is_the_model_itself():
  model, images = _LeftAndRight(), _images()
  found, outputs = AveragedPasses(model)(images), model(images)
  expected = tf.nn.softmax(resize_bilinear(outputs['semantic_logits'], SIZE))
  np.testing.assert_allclose(tf.nn.softmax(found['semantic_logits']), expected, atol=1e-6)


def test_pooling_windows_grow_with_the_image():

  class Pooled(keras.Model):

    def __init__(self):
      super().__init__()
      self.aspp = ASPP(in_channels=3, channels=4, rates=(1, 2, 3), norm=BatchNorm, pool_size=(5, 7))
      self.windows = []

    def call(self, images, training=False):
      self.windows.append(tuple(self.aspp.pool_size))
      return {'semantic_logits': self.aspp(images)}

  model = Pooled()
  AveragedPasses(model, (0.5, 1.0, 2.0))(_images())
  assert model.windows == [(3, 4), (5, 7), (9, 13)]
  assert tuple(model.aspp.pool_size) == (5, 7)


def _network(tmp_path, text=''):
  config = load_config(tiny_centers.write_config(tmp_path),
                       [f'evaluator_options {{ {text} }}'])
  keras.utils.set_random_seed(0)
  model = models.build_model(config)
  return config, model, models.inference_network(config, model)


@pytest.mark.slow
def test_a_config_asks_for_passes(tmp_path):
  images = resize_bilinear(_images(), tiny_centers.CROP)
  _, model, plain = _network(tmp_path)
  expected = model(images)
  np.testing.assert_array_equal(plain(images)['semantic_logits'], expected['semantic_logits'])
  config, _, averaged = _network(tmp_path, 'add_flipped_images: true eval_scales: [0.75, 1]')
  postprocess = models.architecture(config).build_postprocessor(config, catalog.from_config(config))
  run = tf.function(lambda x: (averaged(x), postprocess(averaged(x), tiny_centers.CROP)),
                    autograph=False)
  outputs, prediction = run(images)
  assert outputs['center_offsets'].shape == [2, *tiny_centers.CROP, 2]
  # Mirrored images give mirrored maps then.
  mirrored, other = run(images[:, :, ::-1])
  np.testing.assert_allclose(mirrored['center_heatmap'], outputs['center_heatmap'][:, :, ::-1],
                             atol=1e-5)
  assert np.mean(other.semantic_map != prediction.semantic_map[:, :, ::-1]) < 0.02


def test_only_centre_models_are_averaged(tmp_path):
  path = tiny_centers.write_config(tmp_path)
  with pytest.raises(ConfigError, match='eval_scales has 0: it must be from 0.1 to 10'):
    load_config(path, ['evaluator_options { eval_scales: 0 }'])
  for text, name in (('add_flipped_images: true', 'add_flipped_images'),
                     ('eval_scales: [0.5, 1]', 'eval_scales')):
    with pytest.raises(ConfigError, match=f'{name} averages predictions per pixel, which only'):
      load_config(tiny.write_config(tmp_path), [f'evaluator_options {{ {text} }}'])
  load_config(tiny.write_config(tmp_path), ['evaluator_options { eval_scales: 1 }'])
