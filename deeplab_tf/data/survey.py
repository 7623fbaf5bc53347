"""Statistics and problems of a data set, without writing anything.

Everything is read as the builder reads it, but problems are collected instead of stopping.
"""

import collections
import dataclasses
import os
import re
import sys
from typing import Callable, Iterator, NamedTuple, Optional, Sequence

import numpy as np

from deeplab_tf.classes import AnyInfo, Category, DatasetInfo
from deeplab_tf.data import instance_survey, sources, threads
from deeplab_tf.data.sources import _label_images
from deeplab_tf.formats import orientation
from deeplab_tf.formats.instance_masks import InstanceMasks
from deeplab_tf.user_errors import UserError

# Number of listed problems, number of named absent classes, and letters of a class name.
_LISTED, _NAMED, _LETTERS = 20, 8, 40


@dataclasses.dataclass
class Survey:
  """Statistics of a data set.

  Attributes:
    info: The classes.
    sizes: (height, width) of each image that could be read.
    segments: Number of segments, or of instances without crowds, of each labeled image.
    class_segments, class_crowds, class_images, class_pixels: Class id -> number of segments, crowd
      regions, images and pixels. The crowd regions of a class in one panoptic map count as one
      crowd region and not as segments. Pixels of masks that overlap count for each of them.
    unlabeled_pixels, pixels: Number of unlabeled pixels and of all pixels of labeled images.
    problems: One line per problem.
    notes: Findings that are reported but are not problems.
    instances: Further statistics of masks that may overlap.
  """
  info: AnyInfo
  sizes: list = dataclasses.field(default_factory=list)
  segments: list = dataclasses.field(default_factory=list)
  class_segments: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  class_crowds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  class_images: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  class_pixels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  unlabeled_pixels: int = 0
  pixels: int = 0
  problems: list = dataclasses.field(default_factory=list)
  notes: sources.Notes = dataclasses.field(default_factory=sources.Notes)
  instances: instance_survey.Statistics = dataclasses.field(
      default_factory=instance_survey.Statistics)

  def crowd_only(self) -> list[Category]:
    """Returns the thing classes that only occur as crowd regions."""
    return [c for c in self.info.categories
            if self.class_crowds[c.class_id] and not self.class_segments[c.class_id]]

  def add_label(self, labels: np.ndarray, pixels: np.ndarray) -> None:
    """Adds the label of an image.

    Args:
      labels: int [segments], the distinct panoptic labels of a map.
      pixels: int [segments], number of pixels of each label.
    """
    info = self.info
    things, class_ids = set(info.thing_class_ids), labels // info.label_divisor
    void = class_ids == info.ignore_label
    self.pixels += int(pixels.sum())
    self.unlabeled_pixels += int(pixels[void].sum())
    self.segments.append(0)
    for label, class_id, count in zip(labels[~void], class_ids[~void].tolist(), pixels[~void]):
      self.class_pixels[class_id] += int(count)
      if class_id in things and label % info.label_divisor == 0:
        self.class_crowds[class_id] += 1
      else:
        self.class_segments[class_id] += 1
        self.segments[-1] += 1
    self.class_images.update(set(class_ids[~void].tolist()))

  def add_instances(self, image: instance_survey.ImageInstances) -> None:
    """Adds the label of an image whose masks may overlap."""
    self.instances.add(image)
    pixels = image.size[0] * image.size[1]
    self.pixels += pixels
    self.unlabeled_pixels += pixels - image.labeled_pixels
    self.segments.append(int((~image.is_crowd).sum()))
    self.class_segments.update(image.class_ids[~image.is_crowd].tolist())
    self.class_crowds.update(image.class_ids[image.is_crowd].tolist())
    self.class_images.update(set(image.class_ids.tolist()))
    for class_id, count in zip(image.class_ids.tolist(), image.pixels.tolist()):
      self.class_pixels[class_id] += count


class _Found(NamedTuple):
  """Size and label of an image: a class, ImageInstances, or panoptic labels with pixel counts."""
  size: tuple
  label: object


def take(make_examples: Callable[[sources.BuildOptions], list], info: AnyInfo,
         options: sources.BuildOptions, max_images: Optional[int] = None,
         num_workers: Optional[int] = None) -> Survey:
  """Surveys a raw data set.

  Args:
    make_examples: Function `examples` of the data set's source; see data.sources.
    info: The classes.
    options: Options of the source; crowd regions are kept in any case.
    max_images: Number of images to read from the start; default: all.
    num_workers: Number of threads; default: one per core.

  Raises:
    ValueError, FileNotFoundError: There is nothing to read.
  """
  survey = Survey(info)
  try:
    examples = make_examples(options._replace(
        treat_crowd_as_ignore=False, max_missing=sys.maxsize, report=survey.problems.append,
        note=survey.notes.add))[:max_images]
  except UserError as error:
    if not survey.problems:
      raise
    survey.problems.append(str(error))  # The earlier problems explain it.
    examples = []

  def read(make):
    return _read(make, survey)

  return _filled(survey, read, examples, num_workers)


def take_configured(options, info: AnyInfo, field: str, max_images: Optional[int] = None,
                    num_workers: Optional[int] = None) -> Survey:
  """Surveys the data that a config names, records or image files.

  Args:
    options: DatasetOptions.
    info: The classes.
    field: Name of the options in errors.
    max_images: Number of images to read from the start; default: all.
    num_workers: Number of threads; default: one per core.

  Raises:
    ValueError, FileNotFoundError: There is nothing to read.
  """
  import tensorflow as tf

  from deeplab_tf.data import readers
  from deeplab_tf.data.records import instance_labels
  survey, tolerant = Survey(info), type(options)()
  tolerant.CopyFrom(options)
  tolerant.max_damaged_images = 2**31 - 1
  source = readers.open_source(tolerant, info, field)
  addresses = [address for address, in source.in_order().take(max_images or -1)]

  def read(address):
    try:
      image, label, _ = source.load(address)
    except (tf.errors.OpError, UserError):
      survey.problems.append(source.fault(address.numpy()) or f'{source.place(address.numpy())}: '
                             'cannot be read')
      return None
    _note_orientation(source, address.numpy(), survey.notes)
    if isinstance(info, DatasetInfo) and info.masks_overlap:
      label = instance_survey.measure(instance_labels.to_masks(label), info,
                                      source.place(address.numpy()), survey.notes.add)
    else:
      label = label.numpy()
      label = _label_images.count_values(label) if label.ndim else int(label) + 1
    return _Found(tuple(image.shape[:2]), label)

  _filled(survey, read, addresses, num_workers)
  if isinstance(info, DatasetInfo):
    reason = ('iscrowd 1: nothing of it is trained. Does the labeling tool mark every mask of a '
              'certain kind as crowd?' if info.masks_overlap else
              'instance number 0: nothing of it can be trained. Was it stuff when the labels were '
              'made?')
    survey.problems += [
        f'class {c.class_id} "{c.name}" is a thing, but all {survey.class_crowds[c.class_id]} of '
        f'its regions are crowd, {reason}' for c in survey.crowd_only()]
  return survey


def _note_orientation(source, address, notes):
  turned = orientation.stated(source.encoded(address))
  if turned != 1:
    notes.add(sources.TURNED if source.is_upright else sources.STORED,
              f'{source.place(address)}: {turned}')


def _filled(survey, read, items, num_workers):
  """Adds the result of `read` for each item to the survey."""
  import tqdm
  found = threads.in_order(num_workers or os.cpu_count(), read, items)
  for image in tqdm.tqdm(found, total=len(items), unit='image', desc='reading', file=sys.stderr):
    _add(survey, image)
  survey.problems.sort()  # The threads found them in any order.
  return survey


def _read(make, survey):
  problems = survey.problems
  try:
    example = make()
  except OSError as error:
    problems.append(f'{error.filename}: {error.strerror}' if error.filename else str(error))
    return None
  except UserError as error:
    problems.append(str(error))
    return None
  if example.turned != 1:
    survey.notes.add(sources.TURNED, f'{example.name}: {example.turned}')
  label = example.label
  if isinstance(label, InstanceMasks):
    label = instance_survey.measure(label, survey.info, example.name, survey.notes.add)
  elif isinstance(label, np.ndarray):
    label = _label_images.count_values(label)
  return _Found((example.height, example.width), label)


def _add(survey, image):
  if image is None:
    return
  survey.sizes.append(image.size)
  if isinstance(image.label, instance_survey.ImageInstances):
    survey.add_instances(image.label)
  elif isinstance(image.label, tuple):
    survey.add_label(*image.label)
  elif image.label is not None:
    survey.class_images[image.label - 1] += 1


# --- Text output ------------------------------------------------------------------------------


def lines(survey: Survey) -> Iterator[str]:
  """Yields the survey as text."""
  yield f'images: {len(survey.sizes)}, {survey.info.description}'
  if survey.sizes:
    yield f'image sizes, height x width: {_sizes(survey.sizes)}'
  if survey.segments:
    counts, word = np.array(survey.segments), _word(survey.info)
    yield (f'{word} per image: min {counts.min()}, median {np.median(counts):g}, max '
           f'{counts.max()}')
    yield from _table(survey, word)
    yield f'unlabeled: {_percent(survey.unlabeled_pixels, survey.pixels)} of all pixels'
    if survey.instances.counts:
      yield from instance_survey.lines(survey.instances)
  elif survey.class_images:
    for index, name in enumerate(survey.info.class_names):
      yield f'{survey.class_images[index]:8d} images of {name}'
  else:
    yield 'labels: none'
  yield from (f'WARNING: {line}' for line in survey.notes.lines())
  yield from _problems(survey.problems)


def _sizes(sizes):
  """Returns a text with the smallest, the median and the largest size by area."""
  ordered = sorted(sizes, key=lambda size: size[0] * size[1])
  chosen = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
  return ', '.join(f'{name} {height}x{width}' for name, (height, width)
                   in zip(('min', 'median', 'max'), chosen))


def _word(info):
  return 'instances' if info.masks_overlap else 'segments'


def _table(survey, word):
  present = [c for c in survey.info.categories if survey.class_pixels[c.class_id]]
  absent = [c.name for c in survey.info.categories if not survey.class_pixels[c.class_id]]
  width = min(max([5, *(len(c.name) for c in present)]), _LETTERS)
  yield f'   id  {"class":{width}}  kind  {word:>9}  crowd  images   pixels'
  for c in present:
    yield (f'{c.class_id:5d}  {c.name[:_LETTERS]:{width}}  {"thing" if c.isthing else "stuff"} '
           f'{survey.class_segments[c.class_id]:9d} {survey.class_crowds[c.class_id]:6d} '
           f'{survey.class_images[c.class_id]:7d} '
           f'{_percent(survey.class_pixels[c.class_id], survey.pixels):>8}')
  if absent:
    more = f' and {len(absent) - _NAMED} more' if len(absent) > _NAMED else ''
    names = ', '.join(f'"{name}"' for name in absent[:_NAMED])
    yield f'classes that do not occur: {len(absent)} ({names}{more})'
  crowd_only = survey.crowd_only()
  if crowd_only:
    names = ', '.join(f'"{c.name}"' for c in crowd_only[:_NAMED])
    yield f'WARNING: things of which only crowd regions occur: {len(crowd_only)} ({names})'


def _percent(part, whole):
  return f'{100 * part / max(whole, 1):.2f} %'


def _problems(problems: Sequence[str]):
  yield f'problems: {len(problems)}'
  groups: dict[str, list[str]] = {}
  for problem in problems:
    groups.setdefault(_cause(problem), []).append(' '.join(problem.split()))
  listed, rest = [], len(problems)
  for group in groups.values():
    few = len(group) <= sources.LISTED
    more = group if few else [f'{len(group)} of one kind: {"; ".join(group[:sources.LISTED])}; ...']
    if len(listed) + len(more) > _LISTED:
      break
    listed += more
    rest -= len(group)
  yield from (f'  {line}' for line in listed)
  if rest:
    yield f'  and {rest} more'


def _cause(problem):
  """Returns a problem without files, numbers and names; it is equal for problems of one kind."""
  text = problem.split(': ', 1)[-1]
  text = re.sub(r'"[^"]*"', '""', text)
  return re.sub(r'\d+', '#', re.sub(r'\S*\.\w{3,4}\b', 'FILE', text))
