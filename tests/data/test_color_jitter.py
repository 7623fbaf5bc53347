"""Colour jitter against plain numpy, one pixel at a time."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies

from deeplab_tf.data import color_jitter


def scaled(values, factor, shift=0.0):
  return np.floor(np.clip(np.float32(values) * np.float32(factor) + np.float32(shift), 0, 255))


def to_hsv(pixel):
  """Hue 0..179, saturation and value 0..255, as OpenCV has them for 8 bits."""
  red, green, blue = (int(x) for x in pixel)
  value, least = max(pixel), min(pixel)
  spread = int(value - least)
  if spread == 0:
    return 0, 0, value
  if value == red:
    hue = 30 * (green - blue) / spread
  elif value == green:
    hue = 60 + 30 * (blue - red) / spread
  else:
    hue = 120 + 30 * (red - green) / spread
  hue = np.floor(hue + 0.5)
  return hue + 180 if hue < 0 else hue, np.floor(255 * spread / value + 0.5), value


def to_rgb(hue, saturation, value):
  sector, rest = divmod(hue / 30, 1)
  share = saturation / 255
  low, falling, rising = (value * (1 - share * x) for x in (1, rest, 1 - rest))
  return np.round([(value, rising, low), (falling, value, low), (low, value, rising),
                   (low, falling, value), (rising, low, value), (value, low, falling)][int(sector)])


def per_pixel(function, image):
  return np.array([[function(pixel) for pixel in row] for row in image], np.float32)


def saturated(image, factor):
  def change(pixel):
    hue, saturation, value = to_hsv(pixel)
    return to_rgb(hue, scaled(saturation, factor), value)
  return per_pixel(change, image)


def turned(image, steps):
  def change(pixel):
    hue, saturation, value = to_hsv(pixel)
    return to_rgb((hue + steps) % 180, saturation, value)
  return per_pixel(change, image)


def in_numpy(image, brightness, contrast, contrast_first, saturation, hue):
  image = scaled(image, 1, brightness)
  if contrast_first:
    image = scaled(image, contrast)
  if saturation != 1:
    image = saturated(image, saturation)
  if hue:
    image = turned(image, hue)
  return image if contrast_first else scaled(image, contrast)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    strategies.floats(-32, 32, width=32), strategies.floats(0.5, 1.5, width=32),
    strategies.booleans(), strategies.floats(0.5, 1.5, width=32), strategies.integers(-18, 18),
    strategies.integers(0, 1000))
def test_equals_numpy(brightness, contrast, contrast_first, saturation, hue, seed):
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (8, 9, 3)).astype(np.float32)
  image[0] = rng.integers(0, 256, (9, 1))  # Greys.
  change = color_jitter.Change(*(tf.constant(x) for x in (
      brightness, contrast, contrast_first, saturation, hue)))
  found = color_jitter.apply(tf.constant(image), change).numpy()
  expected = in_numpy(image, brightness, contrast, contrast_first, saturation, hue)
  assert np.array_equal(found, np.floor(found)) and found.min() >= 0 and found.max() <= 255
  # Where the last digit of a float decides how a half is rounded, one step may become several.
  assert np.mean(found != expected) < 0.03
  assert np.max(np.abs(found - expected)) < 12


@pytest.mark.parametrize('steps', [-18, -1, 5, 18])
def test_turned_hues_of_pure_colors_equal_numpy(steps):
  image = np.array([[[r, g, b] for g in (0, 128, 255) for b in (0, 128, 255)]
                    for r in (0, 128, 255)], np.float32)
  change = color_jitter.Change(*map(tf.constant, (0.0, 1.0, True, 1.0, steps)))
  # These colours have many halves, which either side may round.
  np.testing.assert_allclose(
      color_jitter.apply(tf.constant(image), change), turned(image, steps), atol=1)


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
