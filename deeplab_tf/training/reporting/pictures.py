"""Pictures of predictions next to the ground truth."""

from typing import Mapping

import numpy as np
from PIL import Image, ImageDraw

from deeplab_tf.training.evaluator import Sample
from deeplab_tf.visualization import draw, instances

# Sides of one part in pixels: large enough to read names, small enough for the log of a training.
_SHORTEST = 240
_LONGEST = 480
_GAP = 8
_INK = (40, 42, 48)
_PAPER = (255, 255, 255)
_RIGHT, _WRONG = (20, 120, 60), (190, 30, 40)


def side_by_side(sample: Sample, dataset_info) -> np.ndarray:
  """Draws input, ground truth, prediction and errors, with captions and the errors' legend.

  Args:
    sample: Sample with an image.
    dataset_info: The classes.

  Returns:
    uint8 [height, width, 3], two rows of two parts each.
  """
  if isinstance(sample.prediction, instances.Instances):
    return _instances_side_by_side(sample, dataset_info)
  image, ground_truth, prediction = (_fitted(x) for x in
                                     (sample.image, sample.ground_truth, sample.prediction))
  parts = {
      f'input {sample.name}': image,
      'ground truth': draw.overlay(image, ground_truth, dataset_info),
      'prediction': draw.overlay(image, prediction, dataset_info),
      'errors': draw.error_map(ground_truth, prediction, dataset_info, image),
  }
  return _grid(parts, draw.ERROR_COLORS)


def _instances_side_by_side(sample: Sample, dataset_info) -> np.ndarray:
  image = _fitted(sample.image)
  parts = {
      f'input {sample.name}': image,
      'ground truth': instances.overlay(image, sample.ground_truth, dataset_info),
      f'prediction, scores from {instances.MIN_SCORE}':
          instances.overlay(image, sample.prediction, dataset_info),
      'errors': instances.error_map(image, sample.ground_truth, sample.prediction),
  }
  return _grid(parts, instances.ERROR_COLORS)


def captioned(image: np.ndarray, caption: str, is_right: bool) -> np.ndarray:
  """Writes a line above an image.

  Args:
    image: uint8 [height, width, 3].
    caption: Text of the line, cut to the width of the image.
    is_right: Whether the text is green; otherwise it is red.

  Returns:
    uint8 [height, width, 3].
  """
  image = Image.fromarray(_fitted(image))
  font = draw.load_font(max(10, image.width // 16))
  canvas = Image.new('RGB', (image.width, image.height + 2 * font.size), _PAPER)
  canvas.paste(image, (0, 2 * font.size))
  ImageDraw.Draw(canvas).text((0, font.size), _cut(caption, font, image.width), font=font,
                              fill=_RIGHT if is_right else _WRONG, anchor='lm')
  return np.asarray(canvas)


def _cut(caption: str, font, width: int) -> str:
  while font.getlength(caption) > width and len(caption) > 1:
    caption = caption[:-1]
  return caption


def _fitted(array: np.ndarray) -> np.ndarray:
  """Resizes an image or map so that its size is in the range of a part."""
  array = draw.enlarge(array, _SHORTEST)
  scale = _LONGEST / max(array.shape[:2])
  if scale >= 1:
    return array
  height, width = (max(1, round(side * scale)) for side in array.shape[:2])
  if array.ndim == 3:
    return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.LANCZOS))
  rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int)
                   for new, old in ((height, array.shape[0]), (width, array.shape[1])))
  return array[rows[:, None], columns]


def _grid(parts: Mapping[str, np.ndarray], legend: Mapping[str, tuple]) -> np.ndarray:
  """Arranges four pictures of equal size with captions, and the legend of errors below them."""
  height, width = next(iter(parts.values())).shape[:2]
  # TensorBoard shows pictures at about half their size.
  font = draw.load_font(max(10, width // 16))
  line = round(1.5 * font.size)
  canvas = Image.new('RGB', (2 * width + _GAP, 2 * height + 4 * line + _GAP), _PAPER)
  pen = ImageDraw.Draw(canvas)
  for i, (caption, part) in enumerate(parts.items()):
    left, top = i % 2 * (width + _GAP), i // 2 * (height + line)
    # A caption that is wider than its part is cut, so that it does not overlap the next one.
    pen.text((left, top + line / 2), _cut(caption, font, width), font=font, fill=_INK, anchor='lm')
    canvas.paste(Image.fromarray(part), (left, top + line))
  for i, (name, color) in enumerate(legend.items()):
    left, middle = i % 3 * canvas.width // 3, canvas.height + (i // 3 - 1.5) * line
    half = 0.45 * font.size
    pen.rectangle((left, middle - half, left + 2 * half, middle + half), fill=color)
    pen.text((left + 1.3 * font.size, middle), name, font=font, fill=_INK, anchor='lm')
  return np.asarray(canvas)
