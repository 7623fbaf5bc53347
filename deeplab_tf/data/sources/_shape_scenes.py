"""The synthetic panoptic data set "shapes": 128x160 images generated from a seed.

Six thing classes differ only in their outline (disc, square, triangle, star, cross, ring), three
stuff classes only in their texture (stripes, checks, grain). Colors are independent of the class.
Objects are patchworks of several colors, some of them shared with the background or with other
objects, and backgrounds are textures of two colors, so color does not show where an object ends.
Image i of split s with seed d is a function of (d, s, i) alone.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from deeplab_tf.user_errors import DataError

HEIGHT, WIDTH = 128, 160
SPLITS = ('train', 'val')
LABEL_DIVISOR = 256
THINGS = ('disc', 'square', 'triangle', 'star', 'cross', 'ring')
STUFF = ('stripes', 'checks', 'grain')

_MIN_VISIBLE_PIXELS = 90
_MIN_VISIBLE_SHARE = 0.45
_RIM = 0.2          # Brightness of the dark rim around an object.
_RIM_PIXELS = 2.0
_VOID_RIM_SHARE = 0.6   # Share of images in which objects have an unlabeled rim.
_VOID_PATCH_SHARE = 0.3
_CROWD_SHARE = 0.15

_Y, _X = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


class _Object(NamedTuple):
  """A shape to draw: kind is an index into THINGS, lengths are in pixels, angle in radians."""
  kind: int
  y: float
  x: float
  radius: float
  angle: float


def generate(split: str, index: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Draws one image.

  Args:
    split: 'train' or 'val'; the two never share an image.
    index: Index of the image, from 0 on.
    seed: Seed of the data set.

  Returns:
    uint8 [128, 160, 3] image and int32 [128, 160] panoptic label: class id * 256 + instance
    number. Class ids are 1..6 (THINGS), 7..9 (STUFF), 0 is unlabeled; crowd has instance 0.
  """
  if split not in SPLITS:
    raise DataError(f'shapes has no split "{split}": there are {", ".join(SPLITS)}')
  for attempt in itertools.count():
    rng = np.random.default_rng([seed, SPLITS.index(split), index, attempt])
    image, label, instances = _draw(rng)
    if instances >= 2:  # In rare cases, too little of the objects remains visible.
      return image, label
  raise AssertionError('unreachable')


def _draw(rng):
  """Returns image, label and the number of instances."""
  palette = _palette(rng)
  image, label = _background(rng, palette)
  void_rim = rng.random() < _VOID_RIM_SHARE
  if rng.random() < _CROWD_SHARE:
    _draw_crowd(rng, palette, image, label)
  objects = _place_objects(rng)
  owner = np.zeros((HEIGHT, WIDTH), np.int32)
  full_areas = []
  for number, item in enumerate(objects, start=1):
    full_areas.append(_draw_object(rng, palette, item, number, image, owner))
  instances = _label_objects(objects, owner, full_areas, void_rim, label)
  if rng.random() < _VOID_PATCH_SHARE:
    _draw_void_patch(rng, image, owner, label)
  image += rng.standard_normal(image.shape, np.float32) * rng.uniform(3, 9)
  return np.clip(image, 0, 255).astype(np.uint8), label, instances


# --- Scene ------------------------------------------------------------------------------------


def _palette(rng):
  """Returns six colors [6, 3]; the two colors of each pair are far apart for visible textures."""
  colors = rng.uniform(25, 230, (6, 3)).astype(np.float32)
  for a in range(0, 6, 2):
    # The other half of the cube: at least about 100 away.
    shift = np.where(colors[a] > 127, -1, 1) * rng.uniform(60, 110, 3)
    colors[a + 1] = np.clip(colors[a] + shift, 15, 240)
  return colors


def _place_objects(rng):
  """Places 2 to 10 objects; 40 % of those after the first are next to one of the same kind."""
  count = int(rng.integers(2, 11))
  scale = 1.0 if count < 6 else 0.8
  objects = []
  for _ in range(count):
    kind = int(rng.integers(len(THINGS)))
    radius = float(rng.choice((11, 14, 18, 24)) * rng.uniform(0.9, 1.1) * scale)
    y, x = rng.uniform(6, HEIGHT - 6), rng.uniform(6, WIDTH - 6)
    if objects and rng.random() < 0.4:
      other = objects[int(rng.integers(len(objects)))]
      kind, direction = other.kind, rng.uniform(0, 2 * math.pi)
      distance = (radius + other.radius) * rng.uniform(0.75, 1.05)
      y = float(np.clip(other.y + distance * math.sin(direction), 4, HEIGHT - 4))
      x = float(np.clip(other.x + distance * math.cos(direction), 4, WIDTH - 4))
    if _buries(objects, y, x, radius):
      continue
    objects.append(_Object(kind, y, x, max(radius, 9.0), rng.uniform(0, 2 * math.pi)))
  return objects


def _buries(objects, y, x, radius):
  """Returns whether a new object would mostly overlap another."""
  return any(math.hypot(o.y - y, o.x - x) < 0.62 * (o.radius + radius) for o in objects)


def _label_objects(objects, owner, full_areas, void_rim, label):
  """Writes instances into the label and counts them; mostly hidden objects become unlabeled."""
  next_number = [1] * len(THINGS)
  counts = np.bincount(owner.ravel(), minlength=len(objects) + 1)
  values = np.zeros(len(objects) + 1, np.int32)
  for number, item in enumerate(objects, start=1):
    visible = counts[number]
    if visible < max(_MIN_VISIBLE_PIXELS, _MIN_VISIBLE_SHARE * full_areas[number - 1]):
      continue
    values[number] = (item.kind + 1) * LABEL_DIVISOR + next_number[item.kind]
    next_number[item.kind] += 1
  inside = owner > 0
  label[inside] = values[owner[inside]]
  if void_rim:
    edge = np.zeros_like(inside)
    differs = owner[1:] != owner[:-1]
    edge[1:] |= differs
    differs = owner[:, 1:] != owner[:, :-1]
    edge[:, 1:] |= differs
    label[edge] = 0
  return int((values > 0).sum())


# --- Backgrounds ------------------------------------------------------------------------------


def _background(rng, palette):
  """Fills two or three regions with textures; returns float32 image and int32 label."""
  order = rng.permutation(3)
  angle = rng.uniform(0, 2 * math.pi)
  first = _border(rng, angle) + rng.uniform(-20, 20)
  second = _border(rng, angle + rng.uniform(0.6, 2.5)) + rng.uniform(-20, 20)
  region = (first > 0) * (1 + (second > 0)) if rng.random() < 0.8 else (first > 0) * 1
  pairs = rng.permutation(3)
  image = np.empty((HEIGHT, WIDTH, 3), np.float32)
  label = np.empty((HEIGHT, WIDTH), np.int32)
  for part in range(int(region.max()) + 1):
    mask = region == part
    kind = int(order[part])
    mix = _TEXTURES[kind](rng)[mask][:, None]
    # Two of the three regions of an image often share a pair of colors.
    pair = int(pairs[part if rng.random() < 0.5 else 0])
    one, two = palette[2 * pair], palette[2 * pair + 1]
    image[mask] = one + (two - one) * mix
    label[mask] = (len(THINGS) + 1 + kind) * LABEL_DIVISOR
  return image, label


def _border(rng, angle):
  """Returns a field [128, 160] whose zeros form a straight or wavy line near the center."""
  along = (_X - WIDTH / 2) * math.cos(angle) + (_Y - HEIGHT / 2) * math.sin(angle)
  across = (_Y - HEIGHT / 2) * math.cos(angle) - (_X - WIDTH / 2) * math.sin(angle)
  if rng.random() < 0.35:
    return along
  wave = rng.uniform(4, 12) * np.sin(across / rng.uniform(10, 22) + rng.uniform(0, 6))
  return along + wave


def _rotated(rng):
  angle = rng.uniform(0, math.pi)
  return (_X * math.cos(angle) + _Y * math.sin(angle),
          _Y * math.cos(angle) - _X * math.sin(angle))


def _stripes(rng):
  u, _ = _rotated(rng)
  return np.clip(0.5 + 1.5 * np.sin(u * (2 * math.pi / rng.uniform(5.5, 8.5))), 0, 1)


def _checks(rng):
  u, v = _rotated(rng)
  frequency = 2 * math.pi / rng.uniform(9, 13)
  return np.clip(0.5 + 2.5 * np.sin(u * frequency) * np.sin(v * frequency), 0, 1)


def _grain(rng):
  noise = rng.standard_normal((HEIGHT + 2, WIDTH + 2), np.float32)
  noise = noise[:-1] + noise[1:]
  noise = noise[:, :-1] + noise[:, 1:]
  return np.clip(0.5 + 0.3 * noise[:HEIGHT, :WIDTH], 0, 1)


_TEXTURES = (_stripes, _checks, _grain)

# --- Objects ----------------------------------------------------------------------------------


def _distance(kind, y, x, radius):
  """Returns the signed distance to a shape's outline, negative inside, roughly in pixels."""
  name = THINGS[kind]
  if name == 'disc':
    return np.hypot(y, x) - 0.92 * radius
  if name == 'ring':
    return np.abs(np.hypot(y, x) - 0.75 * radius) - 0.28 * radius
  if name == 'square':
    return np.maximum(np.abs(y), np.abs(x)) - 0.8 * radius
  if name == 'cross':
    y, x = np.abs(y), np.abs(x)
    long, short = 1.05 * radius, 0.37 * radius
    return np.minimum(np.maximum(y - long, x - short), np.maximum(y - short, x - long))
  if name == 'triangle':
    slanted = np.abs(x) * 0.8660254 + y * 0.5
    return np.maximum(slanted, -y) - 0.6 * radius
  return _star_distance(y, x, 1.15 * radius)


def _star_distance(y, x, radius):
  """Returns the distance to a five-pointed star, by folding the plane to a tenth of it."""
  sector = 2 * math.pi / 5
  angle = np.arctan2(y, x)
  angle = np.abs(angle - sector * np.round(angle / sector))
  length = np.hypot(y, x)
  px, py = length * np.cos(angle), length * np.sin(angle)
  inner = 0.48 * radius
  qx, qy = inner * math.cos(sector / 2), inner * math.sin(sector / 2)
  edge = math.hypot(qx - radius, qy)
  return ((px - radius) * qy + py * (radius - qx)) / edge


def _window(item, reach):
  top, bottom = max(int(item.y - reach), 0), min(int(item.y + reach) + 2, HEIGHT)
  left, right = max(int(item.x - reach), 0), min(int(item.x + reach) + 2, WIDTH)
  return slice(top, bottom), slice(left, right)


def _patchwork(rng, palette, y, x, radius):
  """Returns colors [..., 3] of an object: three sectors, shaded from side to side."""
  turn = rng.uniform(0, 2 * math.pi)
  angle = np.mod(np.arctan2(y, x) - turn, 2 * math.pi)
  # No part covers more than half of the object, so that no color identifies it.
  patch = np.digitize(angle, np.array([0.8, 1.5]) * math.pi)
  own = rng.uniform(20, 235, 3).astype(np.float32)
  pair = 2 * int(rng.integers(len(palette) // 2))
  # Two of the three colors are those of a texture, often of the background of the object.
  colors = np.stack([own, palette[pair], palette[pair + 1]])
  direction = rng.uniform(0, 2 * math.pi)
  shade = (x * math.cos(direction) + y * math.sin(direction)) / radius
  return colors[patch] * (1 + 0.18 * shade[..., None])


def _draw_object(rng, palette, item, number, image, owner):
  """Draws one object over the image and returns its number of pixels inside the image."""
  rows, columns = _window(item, 1.3 * item.radius + 2)
  dy, dx = _Y[rows, columns] - item.y, _X[rows, columns] - item.x
  cosine, sine = math.cos(item.angle), math.sin(item.angle)
  y, x = dy * cosine - dx * sine, dx * cosine + dy * sine
  distance = _distance(item.kind, y, x, item.radius)
  colors = _patchwork(rng, palette, y, x, item.radius)
  rim = np.clip(distance + _RIM_PIXELS + 0.5, 0, 1)[..., None]
  colors = colors * (1 - (1 - _RIM) * rim)
  alpha = np.clip(0.5 - distance, 0, 1)[..., None]
  part = image[rows, columns]
  part += (colors - part) * alpha
  inside = distance < 0
  owner[rows, columns][inside] = number
  return int(inside.sum())


def _draw_crowd(rng, palette, image, label):
  """Draws a group of small objects of one class as a single crowd region."""
  kind = int(rng.integers(len(THINGS)))
  y, x = rng.uniform(20, HEIGHT - 20), rng.uniform(20, WIDTH - 20)
  owner = np.zeros((HEIGHT, WIDTH), np.int32)
  for _ in range(int(rng.integers(10, 18))):
    item = _Object(kind, y + rng.normal() * 9, x + rng.normal() * 11, rng.uniform(4, 6),
                   rng.uniform(0, 2 * math.pi))
    _draw_object(rng, palette, item, 1, image, owner)
  label[owner > 0] = (kind + 1) * LABEL_DIVISOR


def _draw_void_patch(rng, image, owner, label):
  """Draws a uniform gray patch that belongs to no class on the background."""
  item = _Object(0, rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH), rng.uniform(6, 14), 0.0)
  window = _window(item, item.radius)
  free = owner[window] == 0
  image[window][free] = rng.uniform(90, 150)
  label[window][free] = 0
