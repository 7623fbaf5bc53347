"""Augmentation options of panoptic data, translated from the config."""

from typing import NamedTuple, Optional

from deeplab_tf import config as config_lib
from deeplab_tf.data.augmentation import autoaugment, color_jitter, copy_paste
from deeplab_tf.data.image_normalization import SYMMETRIC, Normalization
from deeplab_tf.layers.resizing import ResizeRule

# Lengths of the shorter side before DETR's crop.
_DETR_SIDES = (400, 500, 600)


class CropFirst(NamedTuple):
  """DETR's crop of an image before its shorter side gets its length.

  Attributes:
    probability: Probability of the crop.
    shorter_sides: Lengths of the shorter side before the crop, to choose from.
    min_side: Smallest side of the crop, unless the image is smaller.
    max_side: Largest side of the crop.
  """
  probability: float
  shorter_sides: tuple[int, ...]
  min_side: int
  max_side: int


class Augmentation(NamedTuple):
  """Augmentation options; sizes are (height, width), and empty where unused.

  Attributes:
    crop_size: Size of the network's input; in evaluation empty for images of any size.
    min_size, max_size, resize_factor: Range of sizes; see transforms.size_in_range.
    scale: Smallest and largest random scale and their step; see transforms.draw_scale.
    policy: Policy of data.augmentation.autoaugment.
    flip: Whether half of the training images are mirrored.
    jitter: Smallest and largest scale of large scale jittering.
    shorter_sides: Lengths of the shorter side to choose from; a single one in evaluation.
    max_longer_side: Maximum length of the longer side; 0 for no limit.
    crop_first: Crop before the shorter side is resized; None for none.
    max_category_share: Share of one class in the labeled pixels from which a crop is drawn again.
    colors: Strength of data.augmentation.color_jitter; None for none.
    paste: Choice of data.augmentation.copy_paste; None for none.
    size_divisor: Divisor that sides are padded to a multiple of, in evaluation without a crop size.
    normalization: Normalization of the network's input.
  """
  crop_size: tuple = ()
  min_size: tuple = ()
  max_size: tuple = ()
  resize_factor: int = 0
  scale: tuple = (1.0, 1.0, 0.0)
  policy: tuple = ()
  flip: bool = False
  jitter: tuple = ()
  shorter_sides: tuple = ()
  max_longer_side: int = 0
  crop_first: Optional[CropFirst] = None
  max_category_share: float = 1.0
  colors: Optional[color_jitter.Strength] = None
  paste: Optional[copy_paste.Choice] = None
  size_divisor: int = 1
  normalization: Normalization = SYMMETRIC

  @property
  def is_mask2former(self) -> bool:
    """Whether sizes and crops follow Mask2Former instead of DeepLab2."""
    return bool(self.jitter or self.shorter_sides)

  @property
  def resize_rule(self) -> ResizeRule:
    """Rule by which images are resized, and predictions back to the size of the file."""
    return 'half_pixel' if self.is_mask2former else 'aligned'

  @property
  def colors_before_crop(self) -> bool:
    """Whether colors are changed on the whole image, as in DeepLab2.

    Changes of single pixels give the same result after the crop.
    """
    return bool(self.policy) and not self.is_mask2former

  def scaled(self, factor: float) -> 'Augmentation':
    """Returns the options with all random sizes multiplied by a factor."""
    # DeepLab2 does not say that the step of the scales is multiplied too, so it is kept. So is
    # crop_first, whose crops are resized afterwards.
    low, high, step = self.scale
    return self._replace(scale=(low * factor, high * factor, step),
                         jitter=tuple(bound * factor for bound in self.jitter),
                         shorter_sides=tuple(max(round(s * factor), 1) for s in self.shorter_sides))


# --- From the config --------------------------------------------------------------------------


def build(options, field: str, normalization: Normalization = SYMMETRIC) -> Augmentation:
  """Translates DatasetOptions.

  Args:
    options: DatasetOptions.
    field: Name of the DatasetOptions in errors.
    normalization: Normalization of the images; padding has its mean color.

  Raises:
    ConfigError: Options contradict each other, or a value is not allowed.
  """
  if len(options.crop_size) != 2:
    raise config_lib.ConfigError(f'{field}.crop_size is not set: it takes two values, height and '
                                 'width')
  augmentations = options.augmentations
  field = f'{field}.augmentations'
  augmentation = Augmentation(
      crop_size=tuple(options.crop_size),
      normalization=normalization,
      min_size=_pair(options.min_resize_value),
      max_size=_pair(options.max_resize_value),
      resize_factor=options.resize_factor,
      scale=(augmentations.min_scale_factor, augmentations.max_scale_factor,
             augmentations.scale_factor_step_size),
      policy=autoaugment.policy(augmentations.autoaugment_policy_name, field.rpartition('.')[0]),
      flip=augmentations.random_flip,
      jitter=_jitter(augmentations, field),
      shorter_sides=_shorter_sides(augmentations, field),
      max_longer_side=augmentations.random_shorter_side.max_longer_side,
      crop_first=_crop_first(augmentations.random_shorter_side, f'{field}.random_shorter_side'),
      max_category_share=augmentations.max_category_share,
      colors=_colors(augmentations, field),
      paste=_paste(augmentations.panoptic_copy_paste, f'{field}.panoptic_copy_paste'))
  _check_sizes(augmentation, field)
  return augmentation


def build_for_evaluation(options, normalization: Normalization) -> Augmentation:
  """Translates DatasetOptions of evaluation, which also determine the sizes of exported models.

  Args:
    options: DatasetOptions.
    normalization: Normalization of the images.
  """
  common = {'crop_size': tuple(options.crop_size), 'normalization': normalization,
            'size_divisor': max(options.size_divisor, 1)}
  if options.resize_rule == options.SHORTER_SIDE:
    return Augmentation(shorter_sides=tuple(options.min_resize_value),
                        max_longer_side=max(options.max_resize_value, default=0), **common)
  return Augmentation(min_size=_pair(options.min_resize_value),
                      max_size=_pair(options.max_resize_value),
                      resize_factor=options.resize_factor, **common)


def require_masks(options, field: str) -> None:
  """Rejects augmentations that need masks, for data sets with one class per image.

  Raises:
    ConfigError: Such an augmentation is set.
  """
  for name in ('large_scale_jitter', 'random_shorter_side', 'color_jitter', 'panoptic_copy_paste'):
    if options.augmentations.HasField(name):
      raise config_lib.ConfigError(
          f'{field}.augmentations.{name} is for images with masks, and data set '
          f'"{options.dataset}" has one class per image; remove it')


def _pair(values):
  return tuple(values) * 2 if len(values) == 1 else tuple(values)


def _jitter(augmentations, field):
  if not augmentations.HasField('large_scale_jitter'):
    return ()
  low, high = (augmentations.large_scale_jitter.min_scale,
               augmentations.large_scale_jitter.max_scale)
  _require(0 < low <= high, f'{field}.large_scale_jitter has min_scale {low:g} and max_scale '
           f'{high:g}: 0 < min_scale <= max_scale is expected')
  return low, high


def _shorter_sides(augmentations, field):
  if not augmentations.HasField('random_shorter_side'):
    return ()
  options, field = augmentations.random_shorter_side, f'{field}.random_shorter_side'
  sides, low, high = tuple(options.sides), options.min_side, options.max_side
  _require(bool(sides) != bool(low or high), f'{field} takes either sides, or min_side and '
           'max_side')
  sides = sides or tuple(range(low, high + 1))
  _require(sides and min(sides) > 0, f'{field}: lengths are {list(options.sides) or [low, high]}; '
           'positive ones are expected, and min_side <= max_side')
  _require(options.max_longer_side >= 0, f'{field}.max_longer_side is {options.max_longer_side}: '
           'a length, or 0 for no limit, is expected')
  return sides


def _crop_first(shorter_side, field):
  if not shorter_side.HasField('crop_first'):
    return None
  options = shorter_side.crop_first
  low, high = options.min_crop_side, options.max_crop_side
  _require(low <= high, f'{field}.crop_first has min_crop_side {low} and max_crop_side {high}: '
           'min_crop_side <= max_crop_side is expected')
  return CropFirst(options.probability, tuple(options.sides) or _DETR_SIDES, low, high)


def _colors(augmentations, field):
  if not augmentations.HasField('color_jitter'):
    return None
  options, field = augmentations.color_jitter, f'{field}.color_jitter'
  _require(0 <= options.probability <= 1,
           f'{field}.probability is {options.probability:g}: 0 to 1 is allowed')
  _require(options.brightness >= 0 and 0 <= options.hue < 180, f'{field} has brightness '
           f'{options.brightness:g} and hue {options.hue}: 0 or more, and 0 to 179 are allowed')
  bounds = {name: (getattr(options, f'min_{name}'), getattr(options, f'max_{name}'))
            for name in ('contrast', 'saturation')}
  for name, (low, high) in bounds.items():
    _require(0 <= low <= high, f'{field} has min_{name} {low:g} and max_{name} {high:g}: '
             f'0 <= min_{name} <= max_{name} is expected')
  return color_jitter.Strength(options.probability, options.brightness, bounds['contrast'],
                               bounds['saturation'], options.hue)


def _paste(options, field):
  scale = options.panoptic_copy_paste_scale
  _require(scale >= 0, f'{field}.panoptic_copy_paste_scale is {scale:g}: a factor, or 0 for no '
           'pasting, is expected')
  if not scale:
    return None
  chosen = []
  for kind in ('thing', 'stuff', 'void'):
    name = f'panoptic_copy_paste_{kind}_option'
    value = getattr(options, name)
    _require(value in copy_paste.OPTIONS, f'{field}.{name} is "{value}": allowed are '
             f'{", ".join(copy_paste.OPTIONS)}')
    chosen.append(value)
  return copy_paste.Choice(scale, *chosen)


def _check_sizes(augmentation, field):
  share = augmentation.max_category_share
  _require(0 < share <= 1, f'{field}.max_category_share is {share:g}: a share in (0, 1] is '
           'expected')
  _require(share == 1 or not augmentation.jitter,
           f'{field}.max_category_share and large_scale_jitter are both set, but the latter has '
           'one crop per image; remove one of them')
  if not augmentation.is_mask2former:
    return
  name = 'large_scale_jitter' if augmentation.jitter else 'random_shorter_side'
  _require(not (augmentation.jitter and augmentation.shorter_sides),
           f'{field}.large_scale_jitter and random_shorter_side are both set; remove one of them')
  _require(augmentation.scale[:2] == (1, 1),
           f'{field}.{name} and min_scale_factor or max_scale_factor are both set; leave the '
           'latter at 1')
  _require(not any(augmentation.min_size) and not any(augmentation.max_size),
           f'{field}.{name} and min_resize_value or max_resize_value are both set; set the latter '
           'to 0')


def _require(condition, message):
  if not condition:
    raise config_lib.ConfigError(message)
