"""The classes of a dataset: ids, names, things and colors.

These value types are shared by data, models, post-processing, metrics and visualization.
`data.catalog` returns the classes of a dataset.
"""

import dataclasses
import json
from typing import NamedTuple, Union


class Category(NamedTuple):
  """One class.

  Attributes:
    class_id: Contiguous id in label maps.
    category_id: Id in the JSON of the dataset, used for results on disk.
    name: Display name.
    isthing: Whether the class is a thing class (countable); otherwise it is stuff.
    color: (red, green, blue), each 0..255.
  """
  class_id: int
  category_id: int
  name: str
  isthing: bool
  color: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """The classes of a segmentation dataset.

  Attributes:
    name: Name of the dataset, `dataset` in the config.
    categories: Categories by ascending class id, without the ignored class.
    num_classes: Number of channels of `semantic_logits`; includes the ignored class if its id is 0.
    ignore_label: Class id of unlabeled pixels.
    label_divisor: Factor in panoptic labels: class id * label_divisor + instance number.
    masks_overlap: Whether the labels are instance masks that may overlap, and not panoptic maps.
  """
  name: str
  categories: tuple[Category, ...]
  num_classes: int
  ignore_label: int
  label_divisor: int
  masks_overlap: bool = False

  @property
  def class_ids(self) -> tuple[int, ...]:
    """Class ids in ascending order."""
    return tuple(c.class_id for c in self.categories)

  @property
  def thing_class_ids(self) -> tuple[int, ...]:
    """Class ids of the thing classes."""
    return tuple(c.class_id for c in self.categories if c.isthing)

  @property
  def stuff_class_ids(self) -> tuple[int, ...]:
    """Class ids of the stuff classes."""
    return tuple(c.class_id for c in self.categories if not c.isthing)

  @property
  def is_thing(self) -> tuple[bool, ...]:
    """Whether each class is a thing class, in the order of `class_ids`."""
    return tuple(c.isthing for c in self.categories)

  @property
  def table_size(self) -> int:
    """Length of a table that is indexed by class id, including the ignore label."""
    return max(*self.class_ids, self.ignore_label) + 1 if self.categories else self.ignore_label + 1

  @property
  def class_index(self) -> dict[int, int]:
    """Class id -> index in `class_ids`, which is the channel of `class_logits`."""
    return {c.class_id: index for index, c in enumerate(self.categories)}

  @property
  def by_class_id(self) -> dict[int, Category]:
    """Class id -> category."""
    return {c.class_id: c for c in self.categories}

  @property
  def by_category_id(self) -> dict[int, Category]:
    """Category id -> category."""
    return {c.category_id: c for c in self.categories}

  @property
  def description(self) -> str:
    """Numbers of classes, as text."""
    return f'{len(self.thing_class_ids)} thing and {len(self.stuff_class_ids)} stuff classes'

  @property
  def void_label(self) -> int:
    """The panoptic label of unlabeled pixels."""
    return self.ignore_label * self.label_divisor

  def to_json(self) -> str:
    """Returns a JSON string for `from_json`."""
    values = dataclasses.asdict(self)
    values['categories'] = [c._asdict() for c in self.categories]
    return json.dumps(values)

  @classmethod
  def from_json(cls, text: str) -> 'DatasetInfo':
    """Returns the DatasetInfo of a JSON string from `to_json`."""
    values = json.loads(text)
    values['categories'] = tuple(
        Category(**{**c, 'color': tuple(c['color'])}) for c in values['categories'])
    return cls(**values)


@dataclasses.dataclass(frozen=True)
class ImageClasses:
  """The classes of an image classification dataset.

  Attributes:
    name: Name of the dataset, `dataset` in the config.
    class_names: Class names by class index, from 0; for "imagenet", the labels in its TFRecords.
    label_offset: Label in the TFRecords that corresponds to class index 0.
  """
  name: str
  class_names: tuple[str, ...]
  label_offset: int = 0

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return len(self.class_names)

  @property
  def description(self) -> str:
    """Numbers of classes, as text."""
    return f'{self.num_classes} classes'


AnyInfo = Union[DatasetInfo, ImageClasses]
