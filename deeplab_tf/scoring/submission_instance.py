"""Instance masks with scores for the instance benchmarks of test servers."""

import collections
import json
import os
import zipfile
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from deeplab_tf.data import catalog
from deeplab_tf.formats import coco_fields, coco_masks, instance_masks
from deeplab_tf.formats import coco_panoptic as panoptic_io
from deeplab_tf.image_names import ImageId
from deeplab_tf.scoring import image_pairs, submission_images, submission_zip
from deeplab_tf.user_errors import DataError

_RESULT = 'instance results (a list of image_id, category_id, segmentation, score)'
_FIELDS = {'image_id': coco_fields.IMAGE_ID, 'category_id': coco_fields.INTEGER,
           'score': coco_fields.NUMBER}
_DECIMALS = 6  # Of scores.


class Instance(NamedTuple):
  """A predicted instance.

  Attributes:
    category_id: Category id of the data set.
    score: Confidence.
    mask: bool [height, width], or compressed run lengths {'size', 'counts'}.
  """
  category_id: int
  score: float
  mask: Union[np.ndarray, Dict[str, Any]]

  def pixels(self) -> np.ndarray:
    """Returns the mask, bool [height, width]."""
    if isinstance(self.mask, np.ndarray):
      return self.mask
    from pycocotools import mask
    return mask.decode(self.mask).astype(bool)

  def run_lengths(self) -> Dict[str, Any]:
    """Returns the compressed run lengths of the mask, for JSON."""
    from pycocotools import mask
    runs = (mask.encode(np.asfortranarray(self.mask, np.uint8))
            if isinstance(self.mask, np.ndarray) else self.mask)
    counts = runs['counts']
    return {'size': [int(side) for side in runs['size']],
            'counts': counts.decode('ascii') if isinstance(counts, bytes) else counts}


class InstancePrediction(NamedTuple):
  """The prediction for one image.

  Attributes:
    image_id: Image id of the benchmark.
    instances: Predicted instances; may be empty.
  """
  image_id: ImageId
  instances: Sequence[Instance]


def load(predictions: panoptic_io.PathLike, server: Any, images: Optional[panoptic_io.PathLike],
         progress: Callable[[int], None]
         ) -> Tuple[submission_images.Choice, Iterator[InstancePrediction]]:
  """Reads instance results.

  Args:
    predictions: COCO results JSON, as evaluation/predict.py writes it for the task instance.
    server: The submission.Benchmark.
    images: Images of the benchmark, see submission.write.
    progress: Function that is called with 1 after each image.

  Returns:
    The images, and an iterator over their predictions.
  """
  path = os.fspath(predictions)
  results: Dict[ImageId, List[Dict[str, Any]]] = collections.defaultdict(list)
  for index, entry in enumerate(_load(path, server)):
    results[entry['image_id']].append({**entry, 'index': index})
  ids = list(results)
  own = [image_pairs.ListedImage(server.image_id(image_id)) for image_id in ids]
  choice = submission_images.choose(own, path, server, images, may_lack=True)
  entries = [[] if image.position is None else results[ids[image.position]]
             for image in choice.images]
  return choice, _read(path, choice.images, entries, progress)


def _load(path: str, server: Any) -> List[Dict[str, Any]]:
  """Reads and validates results, but not their masks."""
  results = panoptic_io.read_json(path, _RESULT)
  if not isinstance(results, list) or not results:
    raise DataError(f'{path}: the JSON is not a list of results; expected {_RESULT}')
  coco_fields.check(results, {}, path, 'a result')
  things = {c.category_id for c in catalog.built_in(server.dataset).categories if c.isthing}
  for index, entry in enumerate(results):
    where = f'{path}: result {index}'
    absent = {*_FIELDS, 'segmentation'} - set(entry)
    if absent:
      raise DataError(f'{where} lacks {", ".join(sorted(absent))}; expected {_RESULT}')
    coco_fields.check([entry], _FIELDS, path, f'result {index}')
    if entry['category_id'] not in things:
      raise DataError(f'{where} is of category {entry["category_id"]}, which {server.name} does '
                      f'not know: its {len(things)} categories have the ids {min(things)} to '
                      f'{max(things)}')
  return results


def _read(path: str, images: Sequence[submission_images.ChosenImage],
          entries: Sequence[Sequence[Dict[str, Any]]],
          progress: Callable[[int], None]) -> Iterator[InstancePrediction]:
  for image, own in zip(images, entries):
    instances = [Instance(entry['category_id'], entry['score'],
                          _mask(entry, image.size, f'{path}: result {entry["index"]}'))
                 for entry in own]
    sizes = {tuple(instance.mask['size']) for instance in instances}
    if len(sizes) > 1:
      raise DataError(f'image {image.image_id!r}: its masks have different sizes (height, width): '
                      + ' and '.join(map(str, sorted(sizes))))
    yield InstancePrediction(image.image_id, instances)
    progress(1)


def _mask(entry: Dict[str, Any], size: Optional[submission_images.Size],
          where: str) -> Dict[str, Any]:
  """Returns the compressed run lengths of a result."""
  segmentation = entry['segmentation']
  stated = segmentation.get('size') if isinstance(segmentation, dict) else size
  if size is None and not _is_size(stated):
    raise DataError(f'{where}: the mask has no size; write it as run lengths with "size" '
                    'and "counts", or give --images as a JSON with heights and widths')
  if size is not None and _is_size(stated):
    submission_images.check_size(f'{where}: the mask', stated, size)
  own = size or (stated[0], stated[1])
  problem = coco_masks.problem(segmentation, own)
  if problem:
    raise DataError(f'{where}: the mask {problem}')
  return instance_masks.run_lengths(segmentation, own)


def _is_size(value: Any) -> bool:
  return (isinstance(value, (list, tuple)) and len(value) == 2
          and all(coco_fields.SIZE.is_right(side) for side in value))


# --- Writers ----------------------------------------------------------------------------------


def write_coco(archive: zipfile.ZipFile, predictions: Iterator[InstancePrediction],
               method: str) -> None:
  """Writes COCO's results JSON."""
  results = [{'image_id': prediction.image_id, 'category_id': instance.category_id,
              'segmentation': instance.run_lengths(), 'score': round(instance.score, _DECIMALS)}
             for prediction in predictions for instance in prediction.instances]
  submission_zip.add(archive, f'segm_test-dev2017_{method}_results.json',
                     json.dumps(results).encode())


def write_cityscapes(archive: zipfile.ZipFile, predictions: Iterator[InstancePrediction],
                     method: str) -> None:
  """Writes a text file of "mask path, class, confidence" per image, and a PNG per instance."""
  del method
  for prediction in predictions:
    lines = []
    for number, instance in enumerate(prediction.instances):
      name = f'{prediction.image_id}_{number:03d}.png'
      mask = np.where(instance.pixels(), 255, 0).astype(np.uint8)
      submission_zip.add_png(archive, f'masks/{name}', mask)
      lines.append(f'masks/{name} {instance.category_id} {instance.score:.{_DECIMALS}f}\n')
    submission_zip.add(archive, f'{prediction.image_id}.txt', ''.join(lines).encode())
