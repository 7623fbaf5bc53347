"""Pixel features and mask features as colours (figures 5 and A.5 of the MaX-DeepLab paper)."""

from typing import NamedTuple, Optional, Sequence

import numpy as np

# Colours span what lies between these percentiles; outliers are clipped.
_PERCENTILES = (1.0, 99.0)
# Masks are linear in the pixel features if so much of their variance is explained.
_LINEAR = 0.999


class FeatureColors(NamedTuple):
  """A linear map from features to colours.

  Attributes:
    mean: float64 [channels].
    components: float64 [channels, 3], what becomes red, green and blue.
    low, high: float64 [3], the values that become 0 and 1.
    explained: Share of the features' variance in the three components, in [0, 1].
  """
  mean: np.ndarray
  components: np.ndarray
  low: np.ndarray
  high: np.ndarray
  explained: float

  def __call__(self, features: np.ndarray) -> np.ndarray:
    """Returns colours, float32 [..., 3] in [0, 1], of features [..., channels]."""
    values = (features - self.mean) @ self.components
    colors = (values - self.low) / np.maximum(self.high - self.low, 1e-12)
    return np.clip(colors, 0, 1).astype(np.float32)


def direct_colors() -> FeatureColors:
  """Returns the colours of three features in [-1, 1], as they are."""
  ones = np.ones(3)
  return FeatureColors(np.zeros(3), np.eye(3), -ones, ones, 1.0)


def principal_colors(features: Sequence[np.ndarray]) -> FeatureColors:
  """Fits the three principal components of features, over all images together.

  Args:
    features: Of each image, [height, width, channels].

  Returns:
    The map. Signs are fixed: the largest weight of each component is positive. With fewer than
    three channels the colours that are missing are constant.
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
  """Finds the queries' mask features, up to one factor, from what they make of the pixels.

  Mask logits are a product of pixel features and mask features (equation 15), scaled and shifted
  by a batch norm; so the mask features are the solution of a linear regression.

  Args:
    pixel_features: [height, width, channels].
    mask_logits: [height, width, queries].

  Returns:
    float64 [queries, channels] of unit norm, or None if the model's masks are not of this form.
  """
  pixels = pixel_features.reshape(-1, pixel_features.shape[-1]).astype(np.float64)
  logits = mask_logits.reshape(-1, mask_logits.shape[-1]).astype(np.float64)
  inputs = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
  solution = np.linalg.lstsq(inputs, logits, rcond=None)[0]
  if np.var(inputs @ solution - logits) > (1 - _LINEAR) * np.var(logits):
    return None
  found = solution[:-1].T
  return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
