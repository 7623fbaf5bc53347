"""Each per-pixel loss: semantic, mask-ID, instance discrimination, top-k mean."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.losses.instance_discrimination import (
    InstanceDiscriminationLoss,
    PixelContrastiveLoss,
)
from deeplab_tf.losses.mask_id import MaskIdLoss
from deeplab_tf.losses.pixel_loss import subsample
from deeplab_tf.losses.reduction import top_k_mean
from deeplab_tf.losses.semantic import SemanticLoss

_TAU = 0.3


def _log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _features(rng, *shape):
  features = rng.normal(size=shape)
  return np.float32(features / np.linalg.norm(features, axis=-1, keepdims=True))


def test_top_k_mean_divides_by_the_losses_that_are_not_zero():
  losses = tf.constant([[[4., 0.], [2., 1.]], [[0., 0.], [0., 0.]]])
  assert top_k_mean(losses).numpy().tolist() == [pytest.approx(7 / 3), 0.]
  assert top_k_mean(losses, 0.5).numpy().tolist() == [3., 0.]
  assert top_k_mean(losses, 0.01).numpy().tolist() == [4., 0.]


@pytest.mark.parametrize('size, small, fits', [
    ((17, 25), (5, 7), True), ((17, 25), (17, 25), True), ((16, 24), (16, 24), True),
    ((17, 25), (9, 7), False), ((16, 24), (4, 6), False), ((5, 5), (9, 9), False),
    ((5, 5), (1, 1), False)])
def test_subsample_keeps_both_borders_or_fails(size, small, fits):
  labels = tf.reshape(tf.range(size[0] * size[1]), [1, *size])
  if not fits:
    with pytest.raises(ValueError, match=f'labels of {size[0]}x{size[1]} pixels'):
      subsample(labels, *small)
    return
  found = subsample(labels, *small)
  assert found.shape == [1, *small]
  assert found[0, 0, 0] == labels[0, 0, 0] and found[0, -1, -1] == labels[0, -1, -1]


def test_semantic_loss_counts_labeled_pixels_with_their_weights():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, (2, 9, 9))
  weights = np.float32(rng.integers(1, 4, (2, 9, 9)))
  logits = np.float32(rng.normal(size=(2, 5, 5, 3)))
  small, small_weights = labels[:, ::2, ::2], weights[:, ::2, ::2]
  losses = -np.take_along_axis(_log_softmax(logits), small[..., np.newaxis], -1)[..., 0]
  losses *= small_weights * (small != 0)
  expected = [image.sum() / (image > 0).sum() for image in losses]
  np.testing.assert_allclose(
      SemanticLoss(0, reduction='none')(labels, logits, weights), expected, rtol=1e-5)
  np.testing.assert_allclose(SemanticLoss(0)(labels, logits, weights), np.mean(expected), 1e-5)
  np.testing.assert_allclose(
      SemanticLoss(0, reduction='sum')(labels, logits, weights), np.sum(expected), 1e-5)
  top = SemanticLoss(0, 0.2, reduction='none')(labels, logits, weights)
  np.testing.assert_allclose(top, [np.sort(image.ravel())[-5:].mean() for image in losses], 1e-5)


def test_semantic_loss_trains_a_keras_model():
  model = keras.Sequential([keras.layers.Conv2D(2, 1, input_shape=(5, 5, 1))])
  model.compile('sgd', SemanticLoss(ignore_label=255))
  images = np.random.default_rng(0).normal(size=(4, 5, 5, 1))
  history = model.fit(images, np.int32(images[..., 0] > 0), epochs=8, verbose=0)
  assert history.history['loss'][-1] < history.history['loss'][0]


def test_losses_are_made_again_from_their_config():
  for loss in (SemanticLoss(3, 0.5), MaskIdLoss(0.5), InstanceDiscriminationLoss(7, 0.5, 0.1),
               PixelContrastiveLoss(7, 20, 0.4)):
    again = type(loss).from_config(loss.get_config())
    assert again.get_config() == loss.get_config()


def test_mask_id_loss_of_crowd_is_0_and_its_gradient_the_softmax():
  rng = np.random.default_rng(1)
  queries = np.array([[[0, 2], [-1, -1]]])
  weights = np.array([[[1., 1.], [1., 0.]]])
  logits = tf.constant(rng.normal(size=(1, 2, 2, 3)), tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(logits)
    loss = MaskIdLoss()(queries, logits, weights)
  log_p = _log_softmax(logits.numpy())[0]
  np.testing.assert_allclose(loss, -(log_p[0, 0, 0] + log_p[0, 1, 2]) / 2, rtol=1e-5)
  gradient = tape.gradient(loss, logits)[0]
  np.testing.assert_allclose(gradient[1, 0], np.exp(log_p[1, 0]) / 2, rtol=1e-5)
  np.testing.assert_allclose(gradient[0, 0], (np.exp(log_p[0, 0]) - [1, 0, 0]) / 2, rtol=1e-5)
  assert not gradient[1, 1].numpy().any()


def test_instance_discrimination_is_equations_16_and_17():
  rng = np.random.default_rng(2)
  mask_ids = rng.integers(-1, 5, (2, 6, 7))
  mask_ids[mask_ids == 3] = 2
  features = _features(rng, 2, 6, 7, 4)
  things = np.float32(mask_ids >= 1)
  expected = []
  for image_ids, g, weights in zip(mask_ids, features, things):
    present = [i for i in range(5) if (image_ids == i).any()]
    t = np.stack([g[image_ids == i].sum(0) for i in present])
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    log_p = _log_softmax(g @ t.T / _TAU)
    losses = [-log_p[y, x, present.index(image_ids[y, x])] for y, x in np.argwhere(weights)]
    expected.append(np.mean(losses))
  loss = InstanceDiscriminationLoss(5, reduction='none')
  np.testing.assert_allclose(loss(mask_ids, features, things), expected, rtol=1e-4)


def test_means_of_masks_pass_gradients():
  rng = np.random.default_rng(3)
  mask_ids = np.array([[[0, 0, 1]]])
  features = tf.constant(_features(rng, 1, 1, 3, 4))
  # Only the second pixel counts, yet all three make the means.
  with tf.GradientTape() as tape:
    tape.watch(features)
    loss = InstanceDiscriminationLoss(2)(mask_ids, features, np.array([[[0., 1., 0.]]]))
  assert np.all(np.linalg.norm(tape.gradient(loss, features)[0, 0], axis=-1) > 1e-3)


def test_contrastive_loss_of_all_pixels_in_plain_numpy():
  rng = np.random.default_rng(4)
  mask_ids = rng.integers(-1, 3, (2, 4, 5))
  features = _features(rng, 2, 4, 5, 6)
  expected = []
  for ids, f in zip(mask_ids.reshape(2, -1), features.reshape(2, -1, 6)):
    log_p = _log_softmax(f @ f.T / _TAU)
    expected.append(np.mean([-log_p[p][ids == ids[p]].mean() for p in np.flatnonzero(ids >= 0)]))
  # More than there are draws them all.
  loss = PixelContrastiveLoss(3, 50, reduction='none')
  np.testing.assert_allclose(loss(mask_ids, features), expected, rtol=1e-4)


@pytest.mark.parametrize('jit_compile', [False, True])
def test_contrastive_loss_draws_pixels_of_masks_small_ones_more_often(jit_compile):
  mask_ids = np.full((1, 20, 20), -1)
  mask_ids[:, :10] = 0
  mask_ids[:, 10, :10] = 1
  features = _features(np.random.default_rng(5), 1, 20, 20, 3)
  shares = {}
  for temperature in (0., 1.):
    loss = PixelContrastiveLoss(2, 20, temperature)
    draw = tf.function(lambda loss=loss: loss.logits(tf.constant(mask_ids), features),
                       jit_compile=jit_compile)
    drawn, similarities = zip(*(draw() for _ in range(20)))
    drawn = np.concatenate(drawn)
    assert drawn.shape == (20, 20) and drawn.min() >= 0
    assert not np.array_equal(similarities[0], similarities[1])
    shares[temperature] = (drawn == 1).mean()
  assert shares[0.] < 0.12 and shares[1.] > 0.25
