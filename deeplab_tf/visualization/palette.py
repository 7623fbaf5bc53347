"""Colors of classes and instances, based on the colors of the dataset where suitable.

Colors are compared and modified in OKLab (Ottosson 2020), a perceptually uniform color space.
"""

import functools
import math
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from deeplab_tf.classes import DatasetInfo

Color = Tuple[int, int, int]

_LIGHTNESS = (0.48, 0.88)
# Two classes closer than this look the same in an overlay.
_DISTANCE = 0.035
_FIRST_HUE = 0.45  # Radians; a warm red.
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
# The sequence of the plastic number spreads any number of points evenly over a square.
_SPREAD = (0.7548776662466927, 0.5698402909980532)

_RGB_TO_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                        [0.2119034982, 0.6806995451, 0.1073969566],
                        [0.0883024619, 0.2817188376, 0.6299787005]])
_LMS_TO_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                        [1.9779984951, -2.4285922050, 0.4505937099],
                        [0.0259040371, 0.7827717662, -0.8086757660]])
_LMS_TO_RGB = np.linalg.inv(_RGB_TO_LMS)
_LAB_TO_LMS = np.linalg.inv(_LMS_TO_LAB)


class LabelColors(NamedTuple):
  """The colors of the labels of a panoptic map.

  Attributes:
    labels: int [labels], labels of the map in ascending order.
    positions: int [height, width], index into `labels` of each pixel.
    colors: uint8 [labels, 3], colors; black for void.
    isvoid, isthing, iscrowd: bool [labels], kind of each label.
  """
  labels: np.ndarray
  positions: np.ndarray
  colors: np.ndarray
  isvoid: np.ndarray
  isthing: np.ndarray
  iscrowd: np.ndarray


@functools.lru_cache(maxsize=1024)
def generated_color(number: int) -> Color:
  """Returns a color of an infinite sequence of distinct colors, by its index."""
  lightness = 0.50 + 0.36 * ((0.45 + number * _SPREAD[0]) % 1)
  chroma = 0.07 + 0.10 * ((0.80 + number * _SPREAD[1]) % 1)
  hue = _FIRST_HUE + number * _GOLDEN_ANGLE
  return _from_lab((lightness, chroma * math.cos(hue), chroma * math.sin(hue)))


def class_colors(classes: DatasetInfo) -> Dict[int, Color]:
  """Returns a color per class id.

  This is the color of the dataset, made lighter if it is too dark to be seen over an image. Colors
  that are missing, or look like that of an earlier class, are generated.
  """
  categories = tuple(
      (class_id, _own_color(category))
      for class_id, category in sorted(classes.by_class_id.items()))
  return dict(_distinct(categories))


@functools.lru_cache(maxsize=4096)
def instance_color(class_color: Color, instance: int) -> Color:
  """Returns the color of an instance: near the color of its class, unlike its neighbors'.

  Args:
    class_color: Color of the class, which is also used for instances 0 and 1.
    instance: Instance number.
  """
  if instance <= 1:
    return class_color
  lightness, a, b = _to_lab(class_color)
  first, second = ((instance - 1) * step % 1 for step in _SPREAD)
  # The shift keeps the first few instances away from the lightness of the class color.
  lightness = min(max(lightness - 0.20 + 0.34 * ((first + 0.4) % 1), 0.38), 0.92)
  angle = math.radians(-32 + 64 * second)
  chroma = math.hypot(a, b)
  # Hues of a nearly gray color look the same, so chroma is increased; a gray class stays gray.
  strength = max(1.0, 0.07 / chroma) if chroma > 0.01 else 1.0
  cosine, sine = strength * math.cos(angle), strength * math.sin(angle)
  return _from_lab((lightness, cosine * a - sine * b, sine * a + cosine * b))


def label_colors(panoptic_map: np.ndarray, classes: DatasetInfo) -> LabelColors:
  """Finds the labels of a panoptic map and their colors.

  Args:
    panoptic_map: int [height, width], class id * label divisor + instance number.
    classes: Description of the classes.

  Returns:
    The LabelColors. Labels of unknown classes are void.
  """
  panoptic_map = np.asarray(panoptic_map)
  labels, positions = np.unique(panoptic_map, return_inverse=True)
  of_class, by_class_id = class_colors(classes), classes.by_class_id
  count = len(labels)
  colors = np.zeros((count, 3), np.uint8)
  isvoid, isthing, iscrowd = (np.zeros(count, bool) for _ in range(3))
  for row, label in enumerate(labels.tolist()):
    class_id, instance = divmod(label, classes.label_divisor)
    if class_id == classes.ignore_label or class_id not in by_class_id:
      isvoid[row] = True
      continue
    isthing[row] = bool(by_class_id[class_id].isthing)
    iscrowd[row] = isthing[row] and instance == 0
    colors[row] = instance_color(of_class[class_id], instance if isthing[row] else 0)
  return LabelColors(labels=labels, positions=positions.reshape(panoptic_map.shape), colors=colors,
                     isvoid=isvoid, isthing=isthing, iscrowd=iscrowd)


def _own_color(category: Any) -> Optional[Color]:
  color = getattr(category, 'color', None)
  return tuple(int(value) for value in color) if color is not None and len(color) == 3 else None


@functools.lru_cache(maxsize=16)
def _distinct(categories: Tuple[Tuple[int, Optional[Color]], ...]) -> Tuple[Tuple[int, Color], ...]:
  """Keeps colors that are distinct and replaces the others."""
  chosen = {}
  taken = np.zeros((0, 3))
  for class_id, color in categories:
    if color is None:
      continue
    color = _readable(color)
    lab = _to_lab(color)
    if not len(taken) or np.linalg.norm(taken - lab, axis=1).min() > _DISTANCE:
      chosen[class_id] = color
      taken = np.vstack([taken, lab])
  number = 0
  for class_id, _ in categories:
    if class_id in chosen:
      continue
    best, best_distance = None, -1.0
    # With hundreds of classes, no color is far from all others; the farthest candidate is used.
    for candidate in (generated_color(number + step) for step in range(72)):
      lab = _to_lab(candidate)
      distance = np.linalg.norm(taken - lab, axis=1).min() if len(taken) else 1.0
      if distance > best_distance:
        best, best_distance = candidate, distance
      if distance > 2 * _DISTANCE:
        break
    number += 1
    chosen[class_id] = best
    taken = np.vstack([taken, _to_lab(best)])
  return tuple(sorted(chosen.items()))


def _readable(color: Color) -> Color:
  lightness, a, b = _to_lab(color)
  low, high = _LIGHTNESS
  # Dark colors are lightened monotonically, so that they stay distinct.
  lifted = low + 0.35 * (lightness - low) + 0.07 if lightness < low else min(lightness, high)
  lifted = max(lifted, 0.40)
  return _from_lab((lifted, a, b))


def _to_lab(color: Color) -> np.ndarray:
  srgb = np.asarray(color, np.float64) / 255
  linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055)**2.4)
  return _LMS_TO_LAB @ np.cbrt(_RGB_TO_LMS @ linear)


def _from_lab(lab: Any) -> Color:
  lightness, a, b = lab
  # Colors outside of sRGB lose chroma; clipping them would make different shades equal.
  for strength in np.linspace(1, 0, 21):
    linear = _LMS_TO_RGB @ (_LAB_TO_LMS @ np.array([lightness, strength * a, strength * b]))**3
    if linear.min() >= -1e-3 and linear.max() <= 1 + 1e-3:
      break
  linear = np.clip(linear, 0, 1)
  srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear**(1 / 2.4) - 0.055)
  return tuple(int(value) for value in np.rint(255 * srgb))
