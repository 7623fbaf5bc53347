"""Features as colors."""

import numpy as np

from deeplab_tf.reports.queries import pixel_colors


def _images(channels, count=2, seed=0):
  rng = np.random.default_rng(seed)
  mixing = rng.normal(size=(channels, channels)) * np.linspace(3, 0.1, channels)
  return [rng.normal(size=(9, 11, channels)) @ mixing.T for _ in range(count)]


def test_colors_are_the_principal_components_over_all_images():
  images = _images(8)
  colors = pixel_colors.principal_colors(images)
  pixels = np.concatenate([i.reshape(-1, 8) for i in images])
  _, singular, vectors = np.linalg.svd(pixels - pixels.mean(axis=0), full_matrices=False)
  for component, expected in zip(colors.components.T, vectors):
    np.testing.assert_allclose(abs(component @ expected), 1, atol=1e-9)
    assert component[np.abs(component).argmax()] > 0
  np.testing.assert_allclose(colors.explained, (singular[:3]**2).sum() / (singular**2).sum())
  shown = colors(images[0])
  assert shown.shape == (9, 11, 3) and shown.min() >= 0 and shown.max() <= 1
  assert shown.std(axis=(0, 1)).min() > 0.1


def test_colors_do_not_depend_on_the_order_of_pixels_and_images():
  images = _images(5)
  again = pixel_colors.principal_colors([i[::-1, ::-1] for i in images[::-1]])
  for found, expected in zip(again, pixel_colors.principal_colors(images)):
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_few_channels_and_constant_features_have_colors():
  for images in (_images(2), _images(1), [np.ones((4, 4, 6))]):
    assert np.isfinite(pixel_colors.principal_colors(images)(images[0])).all()


def test_three_unit_features_are_red_green_and_blue():
  shown = pixel_colors.direct_colors()(np.array([[1, 0, 0], [0, -1, 0], [0, 0, 0]]))
  np.testing.assert_allclose(shown, [[1, 0.5, 0.5], [0.5, 0, 0.5], [0.5] * 3])


def test_mask_features_are_found_from_mask_logits():
  rng = np.random.default_rng(0)
  pixels = rng.normal(size=(6, 7, 3))
  pixels /= np.linalg.norm(pixels, axis=-1, keepdims=True)
  kernels = rng.normal(size=(4, 3))
  logits = 0.3 * pixels @ kernels.T - 2
  found = pixel_colors.mask_features(pixels.astype(np.float32), logits.astype(np.float32))
  np.testing.assert_allclose(found, kernels / np.linalg.norm(kernels, axis=1, keepdims=True),
                             atol=1e-4)
  assert pixel_colors.mask_features(pixels, np.abs(logits + 2)) is None
