"""Visualizations of the masks and the attention of queries (MaX-DeepLab, figures 5 and A.6)."""

from typing import List, Sequence

import numpy as np

# Colors that are distinct from each other, from gray and from black.
COLORS = ((255, 72, 72), (64, 156, 255), (255, 206, 40), (52, 214, 110))
# Percentile of the attention weights over all heads that has full color; with the maximum, a few
# pixels with very high weights would hide all others.
_FULL = 99.0
_GAMMA = 0.75
_GROUND = 0.32


def colored(image: np.ndarray, maps: np.ndarray, even: float) -> List[np.ndarray]:
  """Draws the attention maps of each head over the darkened grayscale image.

  Pixels are colored if their weight is above that of uniform attention. Each mask has one scale for
  all heads, so heads that do not attend to particular pixels stay dark.

  Args:
    image: uint8 [height, width, 3], RGB.
    maps: [height, width, heads, masks], attention weights; at most as many masks as COLORS.
    even: Weight of uniform attention, the inverse of the number of attended pixels.

  Returns:
    An image for each head, uint8 [height, width, 3].
  """
  ground = _GROUND * image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
  tints = np.array(COLORS[:maps.shape[-1]], np.float32)
  # Attention that is nearly uniform is not amplified.
  full = np.maximum(np.percentile(maps, _FULL, axis=(0, 1, 2)), 3 * even)
  strengths = np.clip((maps - even) / (full - even), 0, 1)**_GAMMA
  pictures = []
  for head in range(maps.shape[2]):
    strength = strengths[:, :, head]
    mixed = strength @ tints / np.maximum(strength.sum(axis=-1, keepdims=True), 1e-6)
    opacity = strength.max(axis=-1, keepdims=True)
    picture = ground[..., None] * (1 - opacity) + mixed * opacity
    pictures.append(np.rint(picture).astype(np.uint8))
  return pictures


def outlined(image: np.ndarray, masks: Sequence[np.ndarray],
             width: int = 2) -> np.ndarray:
  """Outlines masks in COLORS, and fades the rest of the image.

  Args:
    image: uint8 [height, width, 3], RGB.
    masks: Masks, bool [height, width] each.
    width: Line width in pixels.
  """
  picture = image.astype(np.float32)
  inside = np.any(masks, axis=0) if len(masks) else np.ones(image.shape[:2], bool)
  picture[~inside] = 0.55 * picture[~inside] + 0.45 * 160
  for mask, color in zip(masks, COLORS):
    picture[mask] = 0.86 * picture[mask] + 0.14 * np.array(color)
    picture[mask & ~_eroded(mask, width)] = color
  return np.rint(picture).astype(np.uint8)


def paint_masks(query_map: np.ndarray, colors: np.ndarray) -> np.ndarray:
  """Draws the pixels of each query in its color, and all others in black.

  Args:
    query_map: int [height, width], query of each pixel, or -1.
    colors: [queries, 3] in [0, 1], color of each query.

  Returns:
    uint8 [height, width, 3].
  """
  picture = np.zeros((*query_map.shape, 3), np.float32)
  known = query_map >= 0
  picture[known] = colors[query_map[known]]
  return np.rint(255 * picture).astype(np.uint8)


def _eroded(mask: np.ndarray, width: int) -> np.ndarray:
  """Erodes a mask by `width` pixels, also at the image border."""
  for _ in range(width):
    padded = np.pad(mask, 1)
    mask = (mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2]
            & padded[1:-1, 2:])
  return mask
