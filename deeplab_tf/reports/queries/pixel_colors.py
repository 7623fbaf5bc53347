"""Pixel features and mask features as colors (figures 5 and A.5 of the MaX-DeepLab paper)."""

from typing import NamedTuple, Optional, Sequence

import numpy as np

# Colors span the range between these percentiles; outliers are clipped.
_PERCENTILES = (1.0, 99.0)
# Masks count as linear in the pixel features if this fraction of their variance is explained.
_LINEAR = 0.999


class FeatureColors(NamedTuple):
  """A linear map from features to colors.

  Attributes:
    mean: float64 [channels], mean of the features.
    components: float64 [channels, 3], directions of red, green and blue.
    low, high: float64 [3], values that are mapped to 0 and 1.
    explained: Fraction of the features' variance in the three components, in [0, 1].
  """
  mean: np.ndarray
  components: np.ndarray
  low: np.ndarray
  high: np.ndarray
  explained: float

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """Returns the colors, float32 [..., 3] in [0, 1], of features [..., channels]."""
    values = (features - self.mean) @ self.components
    colors = (values - self.low) / np.maximum(self.high - self.low, 1e-12)
    return np.clip(colors, 0, 1).astype(np.float32)


def direct_colors() -> FeatureColors:
  """Returns the map of three features in [-1, 1] directly to red, green and blue."""
  ones = np.ones(3)
  return FeatureColors(np.zeros(3), np.eye(3), -ones, ones, 1.0)


def principal_colors(features: Sequence[np.ndarray]) -> FeatureColors:
  """Fits the three principal components of features, over all images together.

  Args:
    features: Features of each image, [height, width, channels].

  Returns:
    The map. The sign of each component is fixed such that its largest weight is positive. With
    fewer than three channels, the remaining colors are constant.
  """
  channels = features[0].shape[-1]
  pixels = [image.reshape(-1, channels).astype(np.float64) for image in features]
  count = sum(len(p) for p in pixels)
  mean = sum(p.sum(axis=0) for p in pixels) / count
  covariance = sum((p - mean).T @ (p - mean) for p in pixels) / count
  values, vectors = np.linalg.eigh(covariance)
  components = np.zeros((channels, 3))
  taken = min(3, channels)
  components[:, :taken] = vectors[:, ::-1][:, :taken]
  largest = np.abs(components).argmax(axis=0)
  components *= np.where(components[largest, np.arange(3)] < 0, -1.0, 1.0)
  projected = np.concatenate([(p - mean) @ components for p in pixels])
  low, high = np.percentile(projected, _PERCENTILES, axis=0)
  explained = values[::-1][:taken].sum() / max(values.sum(), 1e-12)
  return FeatureColors(mean, components, low, high, float(explained))


def mask_features(pixel_features: np.ndarray, mask_logits: np.ndarray) -> Optional[np.ndarray]:
  """Recovers the mask features of the queries, up to a scale, from the mask logits.

  Mask logits are a product of pixel features and mask features (equation 15), followed by batch
  normalization, so the mask features are the solution of a linear regression.

  Args:
    pixel_features: [height, width, channels], pixel features.
    mask_logits: [height, width, queries], mask logits.

  Returns:
    float64 [queries, channels] with unit norm, or None if the mask logits do not have this form.
  """
  pixels = pixel_features.reshape(-1, pixel_features.shape[-1]).astype(np.float64)
  logits = mask_logits.reshape(-1, mask_logits.shape[-1]).astype(np.float64)
  inputs = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
  solution = np.linalg.lstsq(inputs, logits, rcond=None)[0]
  if np.var(inputs @ solution - logits) > (1 - _LINEAR) * np.var(logits):
    return None
  found = solution[:-1].T
  return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
