"""Results of a scale stress test: file format, tables, and comparison with another model."""

import itertools
import json
import math
import os
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from deeplab_tf.formats import atomic_file, coco_panoptic
from deeplab_tf.metrics.percent import percent
from deeplab_tf.user_errors import DataError

GROUPS = ('All', 'Things', 'Stuff')
FILE = 'scale_stress.json'
_SCORES = ('pq', 'sq', 'rq', 'n')
_EXPECTED = 'a result of evaluation/scale_stress.py'


class Identity(NamedTuple):
  """Properties that are equal for all runs of one stress test.

  Attributes:
    checkpoint: Digest of the weights.
    config: Digest of the experiment.
    num_images: Maximum number of scored images, or None for all.
  """
  checkpoint: str
  config: str
  num_images: Optional[int]


class Measurement(NamedTuple):
  """Result at one ratio.

  Attributes:
    ratio: Ratio of the network's input size to its size in evaluation.
    size: Height and width of the network's input.
    images: Number of scored images.
    seconds_per_image: Median time of network and post-processing, without the first image.
    scores: 'All', 'Things' and 'Stuff' -> pq, sq and rq in [0, 1] (None if there are no classes),
      and n, the number of classes averaged over; see PanopticQuality.
  """
  ratio: float
  size: tuple[int, int]
  images: int
  seconds_per_image: float
  scores: Mapping[str, Mapping[str, Any]]


class StressTest(NamedTuple):
  """Scores of a model over ratios.

  Attributes:
    config: Name of the experiment.
    checkpoint: Prefix of the checkpoint.
    dataset: Name of the dataset.
    evaluation_size: Height and width of the network's input at ratio 1.
    identity: Identity of the test.
    measurements: Results by ascending ratio.
  """
  config: str
  checkpoint: str
  dataset: str
  evaluation_size: tuple[int, int]
  identity: Identity
  measurements: tuple[Measurement, ...] = ()

  @property
  def ratios(self) -> tuple[float, ...]:
    """The measured ratios."""
    return tuple(each.ratio for each in self.measurements)

  def pq(self, group: str) -> dict[float, Optional[float]]:
    """Returns ratio -> PQ in [0, 1], or None, of 'All', 'Things' or 'Stuff'."""
    return {each.ratio: each.scores[group]['pq'] for each in self.measurements}

  def with_measurement(self, measurement: Measurement) -> 'StressTest':
    """Returns the test with another measurement."""
    measurements = sorted((*self.measurements, measurement), key=lambda each: each.ratio)
    return self._replace(measurements=tuple(measurements))


def names(tests: Sequence[StressTest]) -> list[str]:
  """Returns distinct names of tests: their configs, or their checkpoints if configs are equal.

  The name of a checkpoint is the last two parts of its path, or more if needed to distinguish
  them. Names that are still equal are numbered.
  """
  configs = [test.config for test in tests]
  checkpoints = {test.checkpoint for test in tests if configs.count(test.config) > 1}
  parts = next(n for n in itertools.count(2)
               if len({_last_parts(path, n) for path in checkpoints}) == len(checkpoints))
  found = [test.config if configs.count(test.config) == 1
           else _last_parts(test.checkpoint, parts) for test in tests]
  return [name if found.count(name) == 1 else f'{name} ({found[:place].count(name) + 1})'
          for place, name in enumerate(found)]


def _last_parts(path: str, count: int) -> str:
  return os.sep.join(path.split(os.sep)[-count:])


def improvement(test: StressTest, other: StressTest, group: str) -> dict[float, Optional[float]]:
  """Returns the relative improvement of a model over another (figure 4 of the paper).

  Args:
    test: Test of the model.
    other: Test of the model that it is compared with.
    group: 'All', 'Things' or 'Stuff'.

  Returns:
    Ratio -> (PQ - other PQ) / other PQ in percent, for the common ratios; None if a PQ is not
    available or the other PQ is 0.
  """
  own, others = test.pq(group), other.pq(group)
  return {ratio: _gain(own[ratio], others[ratio]) for ratio in own if ratio in others}


def _gain(own: Optional[float], other: Optional[float]) -> Optional[float]:
  return None if own is None or not other else 100 * (own - other) / other


# --- Tables -----------------------------------------------------------------------------------


def format_test(test: StressTest) -> str:
  """Formats a test as a table, with scores in percent."""
  lines = [f'{"ratio":>6}{"input size":>12}{"PQ":>7}{"things":>8}{"stuff":>7}{"SQ":>7}{"RQ":>7}'
           f'{"s/image":>10}{"images":>8}']
  for each in test.measurements:
    scores = each.scores
    lines.append(f'{each.ratio:>6g}{_size(each.size):>12}{percent(scores["All"]["pq"]):>7}'
                 f'{percent(scores["Things"]["pq"]):>8}{percent(scores["Stuff"]["pq"]):>7}'
                 f'{percent(scores["All"]["sq"]):>7}{percent(scores["All"]["rq"]):>7}'
                 f'{each.seconds_per_image:>10.3f}{each.images:>8}')
  return '\n'.join(lines)


def format_improvement(test: StressTest, other: StressTest, name: str) -> str:
  """Formats the relative improvement over another model, called `name`, in percent."""
  gains = {group: improvement(test, other, group) for group in GROUPS}
  lines = [f'relative improvement over {name} in percent',
           f'{"ratio":>6}{"PQ":>8}{"things":>8}{"stuff":>8}']
  for ratio in gains['All']:
    lines.append(f'{ratio:>6g}' + ''.join(
        f'{"n/a" if gains[g][ratio] is None else format(gains[g][ratio], "+.1f"):>8}'
        for g in GROUPS))
  return '\n'.join(lines)


def _size(size: Sequence[int]) -> str:
  return f'{size[0]}x{size[1]}'


# --- The file ---------------------------------------------------------------------------------


def write(path: str, test: StressTest) -> None:
  """Writes a test as JSON, atomically."""
  identity = test.identity
  content = {
      'config': test.config, 'checkpoint': test.checkpoint, 'dataset': test.dataset,
      'evaluation_size': list(test.evaluation_size), 'num_images': identity.num_images,
      'checkpoint_digest': identity.checkpoint, 'config_digest': identity.config,
      'ratios': [{'ratio': each.ratio, 'size': list(each.size), 'images': each.images,
                  'seconds_per_image': each.seconds_per_image, **each.scores}
                 for each in test.measurements],
  }
  with atomic_file.writing(path) as file:
    json.dump(content, file, indent=1)
    file.write('\n')


def read(path: str) -> StressTest:
  """Reads the file that `write` wrote.

  Args:
    path: Path of the file or its folder.

  Raises:
    FileNotFoundError: The file does not exist.
    ValueError: The file is not a result of a scale stress test.
  """
  if os.path.isdir(path):
    path = os.path.join(path, FILE)
  content = coco_panoptic.read_json(path, _EXPECTED)
  try:
    identity = Identity(str(content['checkpoint_digest']), str(content['config_digest']),
                        content['num_images'])
    test = StressTest(str(content['config']), str(content['checkpoint']), str(content['dataset']),
                      _pair(content['evaluation_size']), identity)
    for each in content['ratios']:
      test = test.with_measurement(_measurement(each))
    if not test.measurements:
      raise ValueError('no ratio')
    return test
  except (KeyError, TypeError, ValueError):
    raise DataError(f'{path}: is not {_EXPECTED}; give the folder or the {FILE} that it '
                    'wrote') from None


def _pair(values: Sequence[Any]) -> tuple[int, int]:
  height, width = values
  return int(height), int(width)


def _measurement(content: Mapping[str, Any]) -> Measurement:
  scores = {group: {name: _score(content[group][name]) for name in _SCORES} for group in GROUPS}
  ratio = float(content['ratio'])
  if not 0 < ratio < math.inf:
    raise ValueError(f'ratio {ratio}')
  return Measurement(ratio, _pair(content['size']), int(content['images']),
                     float(content['seconds_per_image']), scores)


def _score(value: Any) -> Any:
  if value is not None and not isinstance(value, (int, float)):
    raise TypeError(type(value).__name__)
  return value
