"""Writes predictions into a folder: PNGs, overlays, and one JSON; the output of predict.py."""

import abc
import os
from typing import Any, Optional

import numpy as np
from PIL import Image

from deeplab_tf import results
from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.scoring.predicted_images import PREDICTIONS, PredictedImage

# Data sets of users, whose label files contain category ids. The label PNGs of the others contain
# class ids.
_WITH_CATEGORY_IDS = ('coco_format', 'label_folders')


class PredictionFolder:
  """The output of evaluation/predict.py. It is complete once `finish` has returned."""

  def __init__(self, path: str, dataset_info: DatasetInfo):
    """Initializes the folder, which exists already.

    Args:
      path: Folder that the files are written to.
      dataset_info: Classes of the predictions.
    """
    self._path = path
    self._info = dataset_info
    self._format: Optional[_Format] = None
    self._count = 0

  def __len__(self) -> int:
    return self._count

  def add(self, entry: PredictedImage, result: results.Result) -> None:
    """Writes the prediction for an image and its overlay.

    Args:
      entry: The image's names and id.
      result: Result of a Segmenter, of the same task for all images.
    """
    if self._format is None:
      self._format = _FORMATS[type(result)](self._info)
    path = os.path.join(self._path, entry.output)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    self._format.add(entry, result, path)
    Image.fromarray(result.overlay()).save(f'{path}_overlay.png')
    self._count += 1

  def finish(self) -> None:
    """Writes predictions.json; nothing if there are no predictions."""
    if self._format is not None:
      coco_panoptic.write_json(os.path.join(self._path, PREDICTIONS), self._format.content())


class _Format(abc.ABC):
  """The files of one task."""

  def __init__(self, dataset_info: DatasetInfo):
    self._info = dataset_info
    self._images = []

  def _list_image(self, entry, size) -> None:
    self._images.append({'id': entry.image_id, 'file_name': entry.file_name, 'height': size[0],
                         'width': size[1]})

  @abc.abstractmethod
  def add(self, entry: PredictedImage, result: Any, path: str) -> None:
    """Adds an image; `path` is that of its files without extension."""

  @abc.abstractmethod
  def content(self) -> Any:
    """Returns the content of predictions.json."""


class _Panoptic(_Format):
  """COCO's panoptic format."""

  def __init__(self, dataset_info: DatasetInfo):
    super().__init__(dataset_info)
    self._annotations = []

  def add(self, entry, result, path):
    self._list_image(entry, result.panoptic_map.shape)
    ids, segments_info = coco_panoptic.from_label_map(result.panoptic_map, self._info)
    # One entry per label except void, in ascending order of the labels.
    labels = [label for label in np.unique(result.panoptic_map).tolist()
              if label // self._info.label_divisor != self._info.ignore_label]
    found = {segment.id: segment for segment in result.segments}
    for label, segment_info in zip(labels, segments_info):
      segment_info['isthing'] = int(found[label].isthing)
      segment_info['score'] = found[label].score
    coco_panoptic.write_panoptic_png(f'{path}.png', ids)
    self._annotations.append({'image_id': entry.image_id, 'file_name': f'{entry.output}.png',
                              'segments_info': segments_info})

  def content(self):
    categories = [{'id': c.category_id, 'name': c.name, 'isthing': int(c.isthing),
                   'color': list(c.color)} for c in self._info.categories]
    return {'images': self._images, 'annotations': self._annotations, 'categories': categories}


class _Instance(_Format):
  """COCO's list of results."""

  def __init__(self, dataset_info: DatasetInfo):
    super().__init__(dataset_info)
    self._results = []

  def add(self, entry, result, path):
    del path  # All masks are in the JSON.
    for instance, runs in zip(result.instances, result.encoded.masks):
      y1, x1, y2, x2 = instance.box
      self._results.append({
          'image_id': entry.image_id, 'category_id': instance.category_id,
          'segmentation': {'size': list(runs['size']), 'counts': runs['counts'].decode()},
          'bbox': [x1, y1, x2 - x1, y2 - y1], 'score': instance.score})

  def content(self):
    return self._results


class _Semantic(_Format):
  """Class PNGs, whose values are those of the label PNGs of the data set."""

  def add(self, entry, result, path):
    self._list_image(entry, result.semantic_map.shape)
    table = np.zeros(self._info.table_size, np.uint16)
    for category in self._info.categories:
      table[category.class_id] = self._value(category)
    values = table[result.semantic_map]
    dtype = np.uint8 if table.max() < 256 else np.uint16
    Image.fromarray(values.astype(dtype)).save(f'{path}.png')

  def content(self):
    categories = [{'id': self._value(c), 'name': c.name, 'color': list(c.color)}
                  for c in self._info.categories]
    return {'images': self._images, 'categories': categories}

  def _value(self, category: Category) -> int:
    has_category_ids = self._info.name in _WITH_CATEGORY_IDS
    return category.category_id if has_category_ids else category.class_id


_FORMATS = {results.PanopticResult: _Panoptic, results.InstanceResult: _Instance,
            results.SemanticResult: _Semantic}
