"""Converts the output of evaluation/predict.py to zip files for test servers.

BENCHMARKS lists the supported benchmarks, and which predictions each of them takes. Names inside
the zip follow the servers' examples; image ids are those of the benchmark's image lists.
"""

import functools
import os
import re
import zipfile
from typing import Any, Callable, Iterator, NamedTuple, Optional, Tuple

from deeplab_tf.formats import coco_panoptic as panoptic_io
from deeplab_tf.image_names import ImageId
from deeplab_tf.scoring import (
  instance_files,
  semantic_files,
  submission_images,
  submission_instance,
  submission_panoptic,
  submission_semantic,
  submission_zip,
)
from deeplab_tf.user_errors import DataError

_METHOD = re.compile(r'[A-Za-z0-9._-]+')
_KINDS = {'panoptic': 'a panoptic JSON and its PNGs', 'instance': 'a JSON of instance results',
          'semantic': 'a folder of PNGs of class ids'}


class Benchmark(NamedTuple):
  """A test server.

  Attributes:
    name: Name of the server's benchmark, a key of BENCHMARKS.
    help: Description of the content of the zip, for users.
    task: 'panoptic', 'instance' or 'semantic'; panoptic predictions are also taken by the others,
      unless `only_own` is set.
    write: Function (zip file, predictions of the task, method) -> None.
    dataset: Name of the dataset whose categories are used.
    image_id: Function from image id or file name to the benchmark's id.
    images: Number of images in the test split, or None if unknown.
    only_own: Whether only predictions of the task are taken.
  """
  name: str
  help: str
  task: str
  write: Callable[[zipfile.ZipFile, Iterator[Any], str], None]
  dataset: str
  image_id: Callable[[ImageId], ImageId]
  images: Optional[int] = None
  only_own: bool = False


class Written(NamedTuple):
  """Summary of a submission.

  Attributes:
    images: Number of images.
    left_out: Number of predictions for images that are not in the list.
    warnings: Warnings for the user, one line each.
  """
  images: int
  left_out: int
  warnings: Tuple[str, ...]


def write(path: panoptic_io.PathLike, benchmark: str, predictions: panoptic_io.PathLike,
          *, images: Optional[panoptic_io.PathLike] = None, method: str = 'deeplab_tf',
          progress: Callable[[int], None] = lambda count: None,
          predictions_dir: Optional[panoptic_io.PathLike] = None) -> Written:
  """Writes a submission, atomically.

  Args:
    path: Path of the zip file.
    benchmark: Key of BENCHMARKS.
    predictions: Output folder of evaluation/predict.py, a panoptic JSON, or a JSON of instance
      results.
    images: Images of the benchmark: a JSON with `images`, or the folder of the images, which
      may have subfolders. Each must have a prediction, by id or by file name; other predictions
      are left out.
    method: Name of the method; letters, digits and . _ - are allowed.
    progress: Function that is called with 1 after each image.
    predictions_dir: Folder of the PNGs of a panoptic JSON; see coco_panoptic.png_folder.

  Raises:
    FileNotFoundError: A file is missing.
    ValueError: An image has no prediction, or a prediction has an unknown category, another size
      than its image, or contradicts its PNG.
  """
  server = BENCHMARKS[benchmark]
  if not _METHOD.fullmatch(method):
    raise DataError(f'the method\'s name is "{method}": letters, digits and . _ - are allowed')
  choice, entries = _load(predictions, predictions_dir, server, images, progress)
  warnings = [*choice.warnings, *_count_warnings(choice, server)]
  submission_zip.write(path, lambda archive: server.write(archive, entries, method))
  return Written(len(choice.images), choice.left_out, tuple(warnings))


def _load(predictions: panoptic_io.PathLike, predictions_dir: Optional[panoptic_io.PathLike],
          server: Benchmark, images: Optional[panoptic_io.PathLike],
          progress: Callable[[int], None]) -> Tuple[submission_images.Choice, Iterator[Any]]:
  """Returns the images, and their predictions in the form that the benchmark's task takes."""
  json_path = _json_path(predictions, server)
  kind = 'semantic' if json_path is None else 'panoptic'
  if json_path is not None and instance_files.is_results(json_path):
    kind = 'instance'
  if kind != server.task and (kind != 'panoptic' or server.only_own):
    raise DataError(f'{os.fspath(predictions)}: is {_KINDS[kind]}, and {server.name} takes '
                    f'{_KINDS[server.task]}: predict with --task={server.task}')
  if kind == 'semantic':
    return submission_semantic.load(predictions, server, images, progress)
  if kind == 'instance':
    return submission_instance.load(json_path, server, images, progress)
  choice, entries = submission_panoptic.load(json_path, predictions_dir, server, images, progress)
  return choice, {'panoptic': lambda given: given,
                  'semantic': submission_panoptic.as_semantic,
                  'instance': functools.partial(submission_panoptic.as_instances,
                                                dataset=server.dataset)}[server.task](entries)


def _json_path(predictions: panoptic_io.PathLike,
               server: Benchmark) -> Optional[panoptic_io.PathLike]:
  """Returns the JSON of the predictions; None for a folder of PNGs of class ids."""
  if os.path.isdir(predictions) and server.task == 'semantic' and (
      semantic_files.holds_class_maps(predictions)):
    return None
  return panoptic_io.predictions_json(predictions)


def _count_warnings(choice: submission_images.Choice, server: Benchmark) -> Iterator[str]:
  if server.images is not None and len(choice.images) != server.images:
    yield (f'{len(choice.images)} images are written; the test split of {server.name} has '
           f'{server.images}')
  texts = [image.image_id for image in choice.images if isinstance(image.image_id, str)]
  if server.image_id is submission_images.coco_id and texts:
    yield (f'{len(texts)} image ids are texts, the first is {texts[0]!r}; those of '
           f'{server.name} are numbers: give --images, or predict files of COCO\'s names')


BENCHMARKS = {benchmark.name: benchmark for benchmark in (
    Benchmark('coco_panoptic',
              'panoptic_test-dev2017_METHOD_results.json and a folder of PNGs of that name',
              'panoptic', submission_panoptic.write_coco, 'coco_panoptic',
              submission_images.coco_id, 20288),
    Benchmark('coco_instance',
              'segm_test-dev2017_METHOD_results.json: image_id, category_id, segmentation, score',
              'instance', submission_instance.write_coco, 'coco_panoptic',
              submission_images.coco_id, 20288, only_own=True),
    Benchmark('cityscapes_panoptic',
              'cityscapes_panoptic_test.json and a folder of PNGs of that name, evaluation ids',
              'panoptic', submission_panoptic.write_cityscapes, 'cityscapes_panoptic',
              submission_images.cityscapes_id, 1525),
    Benchmark('cityscapes_semantic',
              'a PNG of evaluation ids for each image',
              'semantic', submission_semantic.write_cityscapes, 'cityscapes_panoptic',
              submission_images.cityscapes_id, 1525),
    Benchmark('cityscapes_instance',
              'a text file for each image and a PNG mask for each thing, with its score',
              'instance', submission_instance.write_cityscapes, 'cityscapes_panoptic',
              submission_images.cityscapes_id, 1525),
    Benchmark('ade20k_semantic',
              'a PNG of classes 1 to 150 for each image',
              'semantic', submission_semantic.write_ade20k, 'ade20k_panoptic',
              submission_images.ade20k_id),
)}
