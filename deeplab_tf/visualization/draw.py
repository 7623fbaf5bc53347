"""Visualizations of panoptic maps: overlays, plain maps, and error maps."""

import functools
import math
from typing import List, Mapping, Optional, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.visualization import palette

# Colors of error_map, in the order of the legend.
ERROR_COLORS = {
    'correct': (41, 151, 139),
    'wrong class': (226, 60, 48),
    'wrong instance': (255, 190, 40),
    'missed': (168, 85, 214),
    'unlabeled': (58, 60, 66),
}
_SMALLEST_WITH_TEXT = 96  # Pixels of the shorter side.
# Outlines have the segment's color, blended with white by this factor.
_OUTLINE_WHITE = 0.78
_Box = Tuple[float, float, float, float]


def overlay(image: np.ndarray, panoptic_map: np.ndarray, dataset_info: DatasetInfo,
            alpha: float = 0.55, names: bool = True,
            captions: Optional[Mapping[int, str]] = None,
            darken_void: bool = True) -> np.ndarray:
  """Draws the segments over the image, with outlines and class names.

  Args:
    image: uint8 [height, width, 3], RGB.
    panoptic_map: int [height, width], class id * label divisor + instance number.
    dataset_info: Names and colors of the classes.
    alpha: Opacity of the colors in [0, 1]; 0 leaves the image (except void) unchanged.
    names: Whether to write class names; they are omitted in images under 96 pixels.
    captions: Label -> text to write instead of the class name; an empty text writes nothing.
    darken_void: Whether unlabeled pixels are dark gray; otherwise they are those of the image.

  Returns:
    uint8 [height, width, 3]. Crowd regions are striped.

  Raises:
    ValueError: Image and map differ in size or the image is not uint8 RGB.
  """
  image = _checked(image, panoptic_map)
  found = palette.label_colors(panoptic_map, dataset_info)
  picture = _fill(image, found, alpha)
  if not darken_void:
    void = found.isvoid[found.positions]
    picture[void] = image[void]
  _draw_outlines(picture, found)
  picture = np.rint(picture).astype(np.uint8)
  if not names or min(image.shape[:2]) < _SMALLEST_WITH_TEXT:
    return picture
  return _draw_names(picture, found, _texts(found, dataset_info, captions or {}))


def panoptic_to_rgb(panoptic_map: np.ndarray, dataset_info: DatasetInfo) -> np.ndarray:
  """Draws every segment in its color, and void in black.

  Args:
    panoptic_map: int [height, width], class id * label divisor + instance number.
    dataset_info: Colors of the classes.

  Returns:
    uint8 [height, width, 3].
  """
  found = palette.label_colors(panoptic_map, dataset_info)
  return found.colors[found.positions]


def error_map(ground_truth: np.ndarray, prediction: np.ndarray, dataset_info: DatasetInfo,
              image: Optional[np.ndarray] = None) -> np.ndarray:
  """Draws the errors of a prediction, in ERROR_COLORS.

  A pixel of the correct thing class is 'wrong instance' unless its two segments have an IoU above
  0.5; crowd regions have no instances. A 'missed' pixel is labeled but has no prediction.

  Args:
    ground_truth: int [height, width], panoptic map.
    prediction: int [height, width], panoptic map.
    dataset_info: Description of the classes.
    image: uint8 [height, width, 3], faint background; None for no background.

  Returns:
    uint8 [height, width, 3].
  """
  ground_truth, prediction = np.asarray(ground_truth), np.asarray(prediction)
  if ground_truth.shape != prediction.shape:
    raise ValueError(f'the ground truth is {ground_truth.shape} and the prediction is '
                     f'{prediction.shape}; both must have one size')
  kinds = _error_kinds(ground_truth, prediction, dataset_info)
  picture = np.array(list(ERROR_COLORS.values()), np.float32)[kinds]
  if image is not None:
    gray = _luminance(_checked(image, ground_truth))[..., None]
    picture = 0.72 * picture + 0.28 * gray
  outlines = _edges(ground_truth, _line_width(ground_truth.shape))
  picture[outlines] = 0.35 * picture[outlines] + 0.65 * 255
  return np.rint(picture).astype(np.uint8)


def enlarge(array: np.ndarray, minimum_side: int = 480) -> np.ndarray:
  """Enlarges a small image or map by an integer factor, repeating pixels.

  Class names are legible in an overlay of an enlarged image and map, but not at 128 pixels.

  Args:
    array: [height, width, ...], image or map.
    minimum_side: Minimum length of the result's shorter side, in pixels.
  """
  times = math.ceil(minimum_side / max(1, min(array.shape[:2])))
  return array if times <= 1 else array.repeat(times, axis=0).repeat(times, axis=1)


def _checked(image: np.ndarray, panoptic_map: np.ndarray) -> np.ndarray:
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(f'the image is {image.dtype} {list(image.shape)}; it must be uint8 '
                     '[height, width, 3]')
  if image.shape[:2] != np.shape(panoptic_map):
    raise ValueError(f'the image is {list(image.shape[:2])} and the map is '
                     f'{list(np.shape(panoptic_map))}; both must have one size')
  return image


def _luminance(image: np.ndarray) -> np.ndarray:
  return image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def _fill(image: np.ndarray, found: palette.LabelColors, alpha: float) -> np.ndarray:
  """Blends the colors with the image; returns float32 [height, width, 3]."""
  gray = _luminance(image)[..., None]
  # Under a color, only the luminance of the image is kept, and shadows are lightened, so that
  # class colors stay recognizable.
  ground = image + min(1.5 * alpha, 1) * (gray - image) + 0.12 * alpha * (255 - gray)
  opacity = np.where(found.isthing, alpha, 0.9 * alpha).astype(np.float32)[found.positions]
  if found.iscrowd.any():
    rows, columns = np.indices(image.shape[:2], sparse=True)
    period = 6 * _line_width(image.shape)
    gap = (rows + columns) // period % 2 == 0
    opacity = np.where(found.iscrowd[found.positions] & gap, 0.35 * opacity, opacity)
  picture = ground + opacity[..., None] * (found.colors[found.positions] - ground)
  void = found.isvoid[found.positions]
  picture[void] = 0.38 * gray[void]
  return picture.astype(np.float32)


def _line_width(shape: Tuple[int, ...]) -> int:
  return max(1, round(min(shape[:2]) / 420))


def _edges(label: np.ndarray, width: int) -> np.ndarray:
  """Returns whether another label is within `width` / 2 pixels; bool [height, width]."""
  edges = np.zeros(label.shape, bool)
  for step in range(1, (width + 1) // 2 + 1):
    if step < label.shape[0]:
      change = label[step:] != label[:-step]
      edges[step:] |= change
      if width % 2 == 0 or step > 1:
        edges[:-step] |= change
    if step < label.shape[1]:
      change = label[:, step:] != label[:, :-step]
      edges[:, step:] |= change
      if width % 2 == 0 or step > 1:
        edges[:, :-step] |= change
  return edges


def _draw_outlines(picture: np.ndarray, found: palette.LabelColors) -> None:
  edges = _edges(found.positions, _line_width(picture.shape))
  light = found.colors + _OUTLINE_WHITE * (255.0 - found.colors)
  picture[edges] = light[found.positions[edges]]


def _texts(found: palette.LabelColors, dataset_info: DatasetInfo,
           captions: Mapping[int, str]) -> List[str]:
  texts = []
  for label, void, crowd in zip(found.labels.tolist(), found.isvoid, found.iscrowd):
    text = ''
    if not void:
      text = short_name(dataset_info.by_class_id[label // dataset_info.label_divisor].name)
      text += ' (crowd)' if crowd else ''
    texts.append(captions.get(label, text))
  return texts


def short_name(name: str) -> str:
  """Removes the suffixes of COCO's stuff names: 'sky-other-merged' becomes 'sky'."""
  for suffix in ('-merged', '-other', '-stuff'):
    name = name[:-len(suffix)] if name.endswith(suffix) else name
  return name


def _draw_names(picture: np.ndarray, found: palette.LabelColors, texts: List[str]) -> np.ndarray:
  """Writes the texts into their segments, large segments first, if there is room."""
  height, width = picture.shape[:2]
  size = min(max(min(height, width) * 0.034, 11.0), 44.0)
  canvas = Image.fromarray(picture)
  draw = ImageDraw.Draw(canvas)
  areas = np.bincount(found.positions.ravel(), minlength=len(texts))
  taken: List[_Box] = []
  for row in np.argsort(-areas, kind='stable').tolist():
    if not texts[row] or areas[row] < size * size:
      continue
    mask = found.positions == row
    for scale in (1.0, 0.8):
      font = load_font(max(9, round(size * scale)))
      stroke = max(1, round(font.size / 9))
      left, top, right, bottom = draw.textbbox((0, 0), texts[row], font=font, anchor='mm',
                                               stroke_width=stroke)
      place = _place(mask, right - left, bottom - top, taken)
      if place is not None:
        x, y = place
        taken.append((x + left, y + top, x + right, y + bottom))
        dark = tuple(int(value) for value in found.colors[row] * 0.22)
        draw.text((x, y), texts[row], font=font, anchor='mm', fill=(255, 255, 255),
                  stroke_width=stroke, stroke_fill=dark)
        break
  return np.asarray(canvas)


def _place(mask: np.ndarray, text_width: float, text_height: float,
           taken: List[_Box]) -> Optional[Tuple[float, float]]:
  """Returns the center of the place in the mask with the most room for a text, or None."""
  from scipy import ndimage  # Slow to import.
  rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
  y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
  # A coarse grid is enough to find a place.
  stride = max(1, math.ceil(max(y1 - y0, x1 - x0) / 160))
  grid = np.pad(mask[y0:y1:stride, x0:x1:stride], 1)
  # Vertical distances are scaled by the aspect ratio of the text, so that an inscribed circle in
  # this metric is an ellipse with the proportions of the text.
  aspect = min(max(text_width / text_height, 1.0), 4.0)
  room = ndimage.distance_transform_edt(grid, sampling=(aspect, 1.0)) * stride
  # Among equally good places, the one nearest to the center of the segment is chosen.
  y, x = np.nonzero(room >= 0.97 * room.max())
  middle = np.argmin((y - grid.shape[0] / 2)**2 + (x - grid.shape[1] / 2)**2)
  if room.max() < 0.30 * text_width:
    return None
  half_width, half_height = text_width / 2 + 2, text_height / 2 + 2
  center_x = min(max(x0 + (x[middle] - 0.5) * stride, half_width), mask.shape[1] - half_width)
  center_y = min(max(y0 + (y[middle] - 0.5) * stride, half_height), mask.shape[0] - half_height)
  box = (center_x - half_width, center_y - half_height, center_x + half_width,
         center_y + half_height)
  overlapping = any(box[0] < other[2] and other[0] < box[2] and box[1] < other[3]
                    and other[1] < box[3] for other in taken)
  return None if overlapping or 2 * half_width > mask.shape[1] else (center_x, center_y)


@functools.lru_cache(maxsize=32)
def load_font(size: int) -> ImageFont.FreeTypeFont:
  """Loads DejaVu Sans from matplotlib, so no system font is needed."""
  import matplotlib
  return ImageFont.truetype(f'{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf', size)


def _error_kinds(ground_truth: np.ndarray, prediction: np.ndarray,
                 dataset_info: DatasetInfo) -> np.ndarray:
  """Returns the index into ERROR_COLORS of each pixel."""
  correct, wrong_class, wrong_instance, missed, unlabeled = range(len(ERROR_COLORS))
  labels, label_rows, label_areas = np.unique(ground_truth, return_inverse=True,
                                              return_counts=True)
  predictions, prediction_rows, prediction_areas = np.unique(
      prediction, return_inverse=True, return_counts=True)
  pairs = label_rows.ravel() * len(predictions) + prediction_rows.ravel()
  table = np.bincount(pairs, minlength=len(labels) * len(predictions))
  table = table.reshape(len(labels), len(predictions))
  void = np.isin(labels // dataset_info.label_divisor, [dataset_info.ignore_label])
  union = label_areas[:, None] + prediction_areas - table - table[void].sum(axis=0)
  classes, instances = np.divmod(labels, dataset_info.label_divisor)
  predicted_classes = predictions // dataset_info.label_divisor
  things = [class_id for class_id, category in dataset_info.by_class_id.items()
            if category.isthing]
  has_instances = np.isin(classes, things) & (instances > 0)
  kinds = np.full(table.shape, wrong_class)
  same = classes[:, None] == predicted_classes
  kinds[same] = correct
  kinds[same & has_instances[:, None] & (2 * table <= union)] = wrong_instance
  kinds[:, predicted_classes == dataset_info.ignore_label] = missed
  kinds[void] = unlabeled
  return kinds.ravel()[pairs].reshape(ground_truth.shape)
