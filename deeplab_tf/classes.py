"""The classes of a data set: ids, names, things and colors.

These value types stand below everything else, so that data, models, post-processing, metrics and
pictures name the same classes in the same way. `data.catalog` finds the classes of a data set.
"""

import dataclasses
import json
from typing import NamedTuple, Union


class Category(NamedTuple):
  """One class.

  Attributes:
    class_id: The contiguous id in label maps.
    category_id: The id in the data set's own JSON, used for results on disk.
    name: For people.
    isthing: Countable (true) or stuff.
    color: (red, green, blue), each 0..255.
  """
  class_id: int
  category_id: int
  name: str
  isthing: bool
  color: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """The classes of a data set.

  Attributes:
    name: As in `dataset` of the config.
    categories: Without the ignored class, in ascending class id.
    num_classes: Channels of `semantic_logits`; includes the ignored class where its id is 0.
    ignore_label: The class id of unlabelled pixels.
    label_divisor: A panoptic label is class id * label_divisor + instance number.
  """
  name: str
  categories: tuple[Category, ...]
  num_classes: int
  ignore_label: int
  label_divisor: int

  @property
  def class_ids(self) -> tuple[int, ...]:
    return tuple(c.class_id for c in self.categories)

  @property
  def thing_class_ids(self) -> tuple[int, ...]:
    return tuple(c.class_id for c in self.categories if c.isthing)

  @property
  def stuff_class_ids(self) -> tuple[int, ...]:
    return tuple(c.class_id for c in self.categories if not c.isthing)

  @property
  def is_thing(self) -> tuple[bool, ...]:
    """Whether each class is a thing class, by position among the class ids."""
    return tuple(c.isthing for c in self.categories)

  @property
  def table_size(self) -> int:
    """Length of a table that is indexed by class id, the ignore label included."""
    return max(*self.class_ids, self.ignore_label) + 1 if self.categories else self.ignore_label + 1

  @property
  def class_index(self) -> dict[int, int]:
    """Class id -> position among the class ids: the channel of `class_logits`."""
    return {c.class_id: index for index, c in enumerate(self.categories)}

  @property
  def by_class_id(self) -> dict[int, Category]:
    return {c.class_id: c for c in self.categories}

  @property
  def by_category_id(self) -> dict[int, Category]:
    return {c.category_id: c for c in self.categories}

  @property
  def description(self) -> str:
    """The classes in a few words."""
    return f'{len(self.thing_class_ids)} thing and {len(self.stuff_class_ids)} stuff classes'

  @property
  def void_label(self) -> int:
    """The panoptic label of unlabelled pixels."""
    return self.ignore_label * self.label_divisor

  def to_json(self) -> str:
    """Returns a JSON text that `from_json` reads."""
    values = dataclasses.asdict(self)
    values['categories'] = [c._asdict() for c in self.categories]
    return json.dumps(values)

  @classmethod
  def from_json(cls, text: str) -> 'DatasetInfo':
    """Reads what `to_json` wrote."""
    values = json.loads(text)
    values['categories'] = tuple(
        Category(**{**c, 'color': tuple(c['color'])}) for c in values['categories'])
    return cls(**values)


@dataclasses.dataclass(frozen=True)
class ImageClasses:
  """The classes of a data set whose images have one each. A class index counts from 0.

  Attributes:
    name: As in `dataset` of the config.
    class_names: By class index; of "imagenet" the labels in its records.
    label_offset: What records have for class index 0.
  """
  name: str
  class_names: tuple[str, ...]
  label_offset: int = 0

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  @property
  def description(self) -> str:
    """The classes in a few words."""
    return f'{self.num_classes} classes'


AnyInfo = Union[DatasetInfo, ImageClasses]
