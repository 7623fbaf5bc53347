"""Writes panoptic predictions into a folder: PNGs, overlays, and one JSON in COCO's format."""

import os
from typing import Any

import numpy as np
from PIL import Image

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.scoring.predicted_images import PREDICTIONS, PredictedImage


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
    self._images = []
    self._annotations = []

  def __len__(self) -> int:
    return len(self._images)

  def add(self, entry: PredictedImage, result: Any) -> None:
    """Writes the segment ids and the overlay of an image.

    Args:
      entry: The image's names and id.
      result: segmenter.PanopticResult of the image.
    """
    height, width = result.panoptic_map.shape
    self._images.append({'id': entry.image_id, 'file_name': entry.file_name, 'height': height,
                         'width': width})
    ids, segments_info = coco_panoptic.from_label_map(result.panoptic_map, self._info)
    # One entry per label except void, in ascending order of the labels.
    labels = [label for label in np.unique(result.panoptic_map).tolist()
              if label // self._info.label_divisor != self._info.ignore_label]
    found = {segment.id: segment for segment in result.segments}
    for label, segment_info in zip(labels, segments_info):
      segment_info['isthing'] = int(found[label].isthing)
      segment_info['score'] = found[label].score
    path = os.path.join(self._path, entry.output)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    coco_panoptic.write_panoptic_png(f'{path}.png', ids)
    Image.fromarray(result.overlay()).save(f'{path}_overlay.png')
    self._annotations.append({'image_id': entry.image_id, 'file_name': f'{entry.output}.png',
                              'segments_info': segments_info})

  def finish(self) -> None:
    """Writes predictions.json."""
    categories = [{'id': c.category_id, 'name': c.name, 'isthing': int(c.isthing),
                   'color': list(c.color)} for c in self._info.categories]
    coco_panoptic.write_json(os.path.join(self._path, PREDICTIONS), {
        'images': self._images, 'annotations': self._annotations, 'categories': categories})
