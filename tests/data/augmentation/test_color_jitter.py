"""Color jitter against plain numpy, one pixel at a time."""

import math

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from deeplab_tf.data.augmentation import color_jitter

# How near to a rounding's border a number may be for its last digits to decide.
_NEAR = 1e-3


class Pixel:
  """The way of one pixel; `is_clear`: no rounding on it hung on the last digits of a float."""

  def __init__(self, values):
    self.values = [float(x) for x in values]
    self.is_clear = True

  def floor(self, x):
    self.is_clear &= abs(x - round(x)) > _NEAR
    return math.floor(x)

  def scaled(self, value, factor, shift=0.0):
    if factor == 1 and shift == int(shift):
      return min(max(value + shift, 0.0), 255.0)
    changed = value * factor + shift
    return float(self.floor(changed)) if 0 < changed < 255 else min(max(changed, 0.0), 255.0)

  def scale(self, factor, shift=0.0):
    self.values = [self.scaled(value, factor, shift) for value in self.values]

  def to_hsv(self):
    """Hue 0..179, saturation and value 0..255, as OpenCV has them for 8 bits."""
    red, green, blue = self.values
    value, spread = max(self.values), max(self.values) - min(self.values)
    if spread == 0:
      return 0, 0, value
    if value == red:
      hue = 30 * (green - blue) / spread
    elif value == green:
      hue = 60 + 30 * (blue - red) / spread
    else:
      hue = 120 + 30 * (red - green) / spread
    hue = self.floor(hue + 0.5)
    return hue + 180 if hue < 0 else hue, self.floor(255 * spread / value + 0.5), value

  def set_hsv(self, hue, saturation, value):
    sector, rest = divmod(hue / 30, 1)
    share = saturation / 255
    falling, rising = value * (1 - share * rest), value * (1 - share * (1 - rest))
    low = value * (1 - share)
    order = [(value, rising, low), (falling, value, low), (low, value, rising),
             (low, falling, value), (rising, low, value), (value, low, falling)][int(sector)]
    self.values = [float(value if x == value else self.floor(x + 0.5)) for x in order]

  def saturate(self, factor):
    hue, saturation, value = self.to_hsv()
    self.set_hsv(hue, self.scaled(saturation, factor), value)

  def turn(self, steps):
    hue, saturation, value = self.to_hsv()
    self.set_hsv((hue + steps) % 180, saturation, value)


def in_numpy(image, change):
  """The changed image, and which pixels are clear."""
  result, clear = np.zeros_like(image), np.zeros(image.shape[:2], bool)
  for place in np.ndindex(*image.shape[:2]):
    pixel = Pixel(image[place])
    change(pixel)
    result[place], clear[place] = pixel.values, pixel.is_clear
  return result, clear


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    strategies.floats(-32, 32, width=32), strategies.floats(0.5, 1.5, width=32),
    strategies.booleans(), strategies.floats(0.5, 1.5, width=32), strategies.integers(-18, 18),
    strategies.integers(0, 1000))
def test_equals_numpy(brightness, contrast, contrast_first, saturation, hue, seed):
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (8, 9, 3)).astype(np.float32)
  image[0] = rng.integers(0, 256, (9, 1))  # Grays.

  def change(pixel):
    pixel.scale(1, brightness)
    if contrast_first:
      pixel.scale(contrast)
    if saturation != 1:
      pixel.saturate(saturation)
    if hue:
      pixel.turn(hue)
    if not contrast_first:
      pixel.scale(contrast)

  expected, clear = in_numpy(image, change)
  found = color_jitter.apply(tf.constant(image), color_jitter.Change(*(tf.constant(x) for x in (
      brightness, contrast, contrast_first, saturation, hue)))).numpy()
  assert np.array_equal(found, np.floor(found)) and found.min() >= 0 and found.max() <= 255
  np.testing.assert_array_equal(found[clear], expected[clear])
  # Elsewhere one step of a hue or a saturation may become several of a color.
  assert np.max(np.abs(found - expected)) < 12


@pytest.mark.parametrize('steps', [-18, -1, 5, 18])
def test_turned_hues_of_pure_colors_equal_numpy(steps):
  image = np.array([[[r, g, b] for g in (0, 128, 255) for b in (0, 128, 255)]
                    for r in (0, 128, 255)], np.float32)
  change = color_jitter.Change(*map(tf.constant, (0.0, 1.0, True, 1.0, steps)))
  expected, _ = in_numpy(image, lambda pixel: pixel.turn(steps))
  # These colors have many halves, which either side may round.
  np.testing.assert_allclose(color_jitter.apply(tf.constant(image), change), expected, atol=1)


@pytest.mark.parametrize('color, hsv', [
    ((255, 0, 0), (0, 255, 255)), ((0, 255, 0), (60, 255, 255)), ((0, 0, 255), (120, 255, 255)),
    ((255, 255, 0), (30, 255, 255)), ((255, 0, 255), (150, 255, 255)), ((7, 7, 7), (0, 0, 7)),
    ((0, 0, 0), (0, 0, 0)), ((128, 64, 64), (0, 128, 128))])
def test_hues_of_known_colors(color, hsv):
  planes = tf.reshape(tf.constant(color, tf.float32), [3, 1, 1])
  found = [float(x) for x in color_jitter.rgb_to_hsv(planes)]
  assert found == list(hsv)
  back = color_jitter.hsv_to_rgb(*color_jitter.rgb_to_hsv(planes))
  np.testing.assert_allclose(tf.reshape(back, [3]), color, atol=1)


def drawn(strength, count=200):
  return [[value.numpy() for value in color_jitter.draw(strength, tf.constant([9, i]))]
          for i in range(count)]


def test_draws_stay_in_their_ranges_and_happen_half_of_the_time():
  changes = np.array(drawn(color_jitter.Strength()), np.float64)
  for column, (low, high, nothing) in zip((0, 1, 3, 4), (
      (-32, 32, 0), (0.5, 1.5, 1), (0.5, 1.5, 1), (-18, 18, 0))):
    values = changes[:, column]
    assert low <= values.min() < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < values.max() <= high
    assert 0.35 < np.mean(values != nothing) < 0.62
  assert 0.4 < np.mean(changes[:, 2]) < 0.6


def test_probability_0_changes_nothing():
  image = tf.constant(np.random.default_rng(0).integers(0, 256, (5, 6, 3)), tf.float32)
  for change in drawn(color_jitter.Strength(probability=0.0), 5):
    found = color_jitter.apply(image, color_jitter.Change(*map(tf.constant, change)))
    np.testing.assert_array_equal(found, image)
