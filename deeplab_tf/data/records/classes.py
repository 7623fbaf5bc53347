"""Classes stated in records, and their comparison with the config.

Each record with a label has the feature FEATURE, a JSON text with the id, name and kind (1: thing,
0: stuff) of every class, the label divisor, the ignore label and, for instance masks, the mark
"masks_overlap". Records of images with one class each state only the class names. DeepLab2's
parsers ignore this feature.
"""

import json
from typing import Optional

from deeplab_tf.classes import AnyInfo, ImageClasses

FEATURE = 'image/classes'
_KINDS = ('stuff', 'a thing')
_LABELS = ('panoptic maps', 'instance masks that may overlap')


def describe(info: AnyInfo) -> bytes:
  """Returns the content of FEATURE for a data set; empty if it has no classes."""
  if isinstance(info, ImageClasses):
    content = {'names': list(info.class_names)}
  elif info.categories:
    content = {'classes': [[c.class_id, c.name, int(c.isthing)] for c in info.categories],
               'label_divisor': info.label_divisor, 'ignore_label': info.ignore_label}
    if info.masks_overlap:
      content['masks_overlap'] = True
  else:
    return b''
  return json.dumps(content, separators=(',', ':'), ensure_ascii=False).encode()


def difference(stated: bytes, info: AnyInfo) -> Optional[str]:
  """Compares the classes that a record states with those of a data set.

  Args:
    stated: Content of FEATURE.
    info: The data set as the config describes it.

  Returns:
    A line that names the first difference, or None.
  """
  if stated == describe(info):
    return None
  try:
    content = json.loads(stated)
    if isinstance(info, ImageClasses):
      return _of_names(content['names'], info)
    classes = {int(class_id): (str(name), bool(thing))
               for class_id, name, thing in content['classes']}
    numbers = {name: int(content[name]) for name in ('label_divisor', 'ignore_label')}
    masks_overlap = bool(content.get('masks_overlap'))
  except (ValueError, KeyError, TypeError):
    return f'its classes (feature {FEATURE}) are not stated as {type(info).__name__} has them'
  if masks_overlap != info.masks_overlap:
    return (f'the records have {_LABELS[masks_overlap]}, and the labels of data set "{info.name}" '
            f'are {_LABELS[info.masks_overlap]}')
  return _of_classes(classes, info) or _of_numbers(numbers, info)


def _of_names(names, info):
  # A config of "imagenet" states only the number of classes.
  if len(names) == info.num_classes:
    return None
  return (f'the records are of {len(names)} classes, "{names[0]}" to "{names[-1]}", and data set '
          f'"{info.name}" has {info.num_classes}')


def _of_classes(classes, info):
  own = {c.class_id: (c.name, c.isthing) for c in info.categories}
  different = [class_id for class_id in sorted(set(classes) | set(own))
               if classes.get(class_id) != own.get(class_id)]
  if not different:
    return None
  first = different[0]
  more = f' (and {len(different) - 1} more differ)' if len(different) > 1 else ''
  return (f'class {first} is {_shown(classes.get(first))} in the records, and '
          f'{_shown(own.get(first))} in data set "{info.name}"{more}')


def _shown(found):
  return f'"{found[0]}", {_KINDS[found[1]]},' if found else 'none'


def _of_numbers(numbers, info):
  for name, value in numbers.items():
    if value != getattr(info, name):
      return (f'{name} is {value} in the records, and {getattr(info, name)} in data set '
              f'"{info.name}"')
  return None
