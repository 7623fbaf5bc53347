"""The mask head against plain numpy."""

import numpy as np
import tensorflow as tf

from deeplab_tf.heads.convolution_head import ConvolutionHead
from deeplab_tf.heads.mask_head import MaskHead
from deeplab_tf.layers import folding
from deeplab_tf.layers.normalization import BatchNorm

QUERIES, MEMORY, FEATURES, PIXELS, CLASSES = 5, 12, 8, 6, 7


def _head():
  pixel_head = ConvolutionHead(10, 9, PIXELS, norm=BatchNorm)
  return MaskHead(
      memory_channels=MEMORY, feature_channels=FEATURES, pixel_head=pixel_head,
      pixel_channels=PIXELS, num_classes=CLASSES, norm=BatchNorm)


def _inputs():
  rng = np.random.default_rng(0)
  return (tf.constant(rng.normal(size=(2, QUERIES, MEMORY)), tf.float32),
          tf.constant(rng.normal(size=(2, 4, 3, 10)), tf.float32))


def test_masks_are_products_of_query_kernels_and_unit_pixel_features():
  head, (memory, pixels) = _head(), _inputs()
  outputs = head(memory, pixels)
  features = outputs['pixel_features'].numpy()
  np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, rtol=1e-5)
  kernels = head.mask_projection(head.mask_feature(memory)).numpy()
  products = np.einsum('bhwd,bqd->bhwq', features, kernels)
  # A new batch norm has mean 0 and variance 1; its scale starts at 0.1.
  expected = 0.1 * products / np.sqrt(1 + head.norm_masks.epsilon)
  np.testing.assert_allclose(outputs['mask_logits'], expected, rtol=1e-4, atol=1e-6)


def test_one_mean_and_variance_normalize_all_mask_logits_in_training():
  head, (memory, pixels) = _head(), _inputs()
  logits = head(memory, pixels, training=True)['mask_logits'].numpy()
  np.testing.assert_allclose([logits.mean(), logits.std()], [0, 0.1], atol=2e-3)


def test_a_new_head_gives_no_object_a_probability_of_0_9():
  head, (memory, pixels) = _head(), _inputs()
  logits = head(0 * memory, pixels)['class_logits']
  assert logits.shape == (2, QUERIES, CLASSES + 1)
  np.testing.assert_allclose(tf.nn.softmax(logits)[..., -1], 0.9, rtol=1e-5)


def test_folding_changes_no_output():
  head, (memory, pixels) = _head(), _inputs()
  rng = np.random.default_rng(1)
  for variable in head.variables:
    low = 0.5 if 'variance' in variable.name else -1.0
    variable.assign(rng.uniform(low, 1.5, variable.shape))
  expected = head(memory, pixels)
  folding.fold_norms(head)
  assert head.norm_pixels is None
  for name, value in head(memory, pixels).items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
