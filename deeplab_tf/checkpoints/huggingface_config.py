"""Makes the config of a Hugging Face Mask2Former, from its config.json.

Files of transformers leave out values that equal the defaults of its classes; these are repeated
here.
"""

import json
import os
import re
from typing import Any, Mapping, NamedTuple, Sequence

from google.protobuf import text_format

from deeplab_tf import config as config_lib
from deeplab_tf.backbones import swin, torchvision_resnet
from deeplab_tf.checkpoints import files
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.config import ConfigError
from deeplab_tf.data import catalog
from deeplab_tf.formats import atomic_file
from deeplab_tf.protos import config_pb2, data_pb2
from deeplab_tf.user_errors import MissingFileError, UsageError

FILE = 'config.json'
OUTPUT = 'config.textproto'

# Largest config.json in bytes; those of released models have some thousand.
_LARGEST = 1 << 24
# Share of the names that must be those of a known data set, in its order, for its classes to be
# taken: lists of the same classes spell some of them differently.
_SAME_NAMES = 0.9
# Smallest label divisor of data of one's own.
_LABEL_DIVISOR = 256

_HEADER = '''\
# Mask2Former of Hugging Face, converted by trainer/convert_checkpoint.py from
# {source}
#
# Images are resized as in Mask2Former's own configs for COCO: the shorter side to 800, the longer
# one to at most 1333. The image processors of the released models (preprocessor_config.json) resize
# every image to 384x384 instead, whatever its aspect ratio, and so predict other masks. For models
# of other data, take the sizes of its config in configs/.
{note}
'''


class Made(NamedTuple):
  """The config of a model.

  Attributes:
    config: The checked experiment.
    text: The textproto of `config`, with comments.
    lines: Lines for the user, about the classes.
  """
  config: config_pb2.ExperimentOptions
  text: str
  lines: tuple[str, ...]

  def write(self, folder: str) -> str:
    """Writes config.textproto into a folder, which is created, and returns its path."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, OUTPUT)
    with atomic_file.writing(path) as file:
      file.write(self.text)
    return path

  def check_writable(self, folder: str) -> None:
    """Raises UsageError if another config.textproto is in a folder already."""
    path = os.path.join(folder, OUTPUT)
    if not os.path.lexists(path):
      return
    if os.path.isfile(path):
      with open(path, 'rb') as file:
        if file.read() == self.text.encode():
          return
    raise UsageError(f'{path} exists already, and is another config: remove it, give another '
                     '--output, or take it with --config_file')


def make(path: str, overrides: Sequence[str] = ()) -> Made:
  """Makes the config of a model.

  Args:
    path: Folder with the model's config.json, or a file in it.
    overrides: Textprotos that are merged over the config.

  Raises:
    FileNotFoundError: There is no config.json.
    ConfigError: It is not that of a Mask2Former, or of one that this library cannot build, or an
      override is invalid.
  """
  folder = path if os.path.isdir(path) else os.path.dirname(path)
  source = os.path.join(os.path.abspath(folder), FILE)
  settings = _Settings.of_file(source)
  config, lines = _experiment(settings, os.path.basename(os.path.dirname(source)))
  config_lib.overridden(config, overrides, source)
  header = _HEADER.format(source=' '.join(source.splitlines()),
                          note=''.join(f'#\n# {line}\n' for line in lines))
  return Made(config, header + text_format.MessageToString(config, as_utf8=True), lines)


def _experiment(settings, name):
  """Returns the experiment, and lines for the user."""
  settings.require('model_type', '', 'mask2former')
  config = config_pb2.ExperimentOptions(experiment_name=name,
                                        task=config_pb2.ExperimentOptions.PANOPTIC)
  model = config.model_options
  model.image_normalization = model.IMAGENET
  _set_backbone(settings.inside('backbone_config'), model.backbone)
  _set_model(settings, model.mask2former)
  data = config.eval_dataset_options
  data.batch_size, data.size_divisor = 1, 32
  data.resize_rule = data.SHORTER_SIDE
  data.min_resize_value.append(800)
  data.max_resize_value.append(1333)
  thresholds = config.evaluator_options.mask2former_postprocessing
  thresholds.object_mask_threshold = thresholds.overlap_threshold = 0.8
  lines = _set_classes(settings.class_names(), data, model.mask2former.num_queries)
  if data.dataset in catalog.INSTANCES:
    config.task = config_pb2.ExperimentOptions.INSTANCE
    return config, (*lines, 'They are those of instances: task is INSTANCE.')
  return config, (*lines, "A config.json does not state the task. For a model of classes alone "
                  "(its name has \"semantic\"), give --override='task: SEMANTIC'.")


# === Values of config.json ===


class _Settings:
  """The values of a JSON object.

  Attributes:
    place: Path of the file, and the object in it.
  """

  def __init__(self, values: Mapping[str, Any], place: str):
    self._values, self.place = values, place

  @classmethod
  def of_file(cls, path: str) -> '_Settings':
    """Reads a file."""
    if not os.path.isfile(path):
      raise MissingFileError(f'{path}: no such file; --source=huggingface takes the folder of a '
                             f'model, which has {FILE} and the weights, or else --config_file too')
    if os.path.getsize(path) > _LARGEST:
      raise ConfigError(f'{path}: is larger than {_LARGEST} bytes, and so no config of a model')
    try:
      with open(path, 'rb') as file:
        values = json.load(file)
    except (ValueError, RecursionError) as error:
      raise ConfigError(f'{path}: cannot be read as JSON ({files.first_line(error)})') from None
    if not isinstance(values, dict):
      raise ConfigError(f'{path}: is not a JSON object')
    return cls(values, path)

  def inside(self, name: str) -> '_Settings':
    """Returns the values of an object inside this one."""
    values = self._values.get(name)
    if not isinstance(values, dict):
      raise ConfigError(f'{self.place}: has no object "{name}", which describes the backbone')
    return _Settings(values, f'{self.place}: {name}')

  def number(self, name: str, default: int) -> int:
    """Returns a positive integer."""
    value = self._values.get(name, default)
    if type(value) is not int or value < 1 or value >= 1 << 31:
      raise self._error(name, value, 'it must be a whole number of at least 1')
    return value

  def numbers(self, name: str, default: Sequence[int]) -> list[int]:
    """Returns four positive integers."""
    value = self._values.get(name, list(default))
    if not isinstance(value, list) or len(value) != 4 or any(
        type(n) is not int or not 0 < n < 1 << 31 for n in value):
      raise self._error(name, value, 'it must be four whole numbers of at least 1')
    return value

  def flag(self, name: str) -> bool:
    """Returns a boolean whose default is false."""
    value = self._values.get(name, False)
    if not isinstance(value, bool):
      raise self._error(name, value, 'it must be true or false')
    return value

  def rate(self, name: str, default: float) -> float:
    """Returns a number in [0, 1)."""
    value = self._values.get(name, default)
    if type(value) not in (int, float) or not 0 <= value < 1:
      raise self._error(name, value, 'it must be at least 0 and less than 1')
    return value

  def require(self, name: str, default: Any, *allowed: Any) -> Any:
    """Returns a value of which this library has not all that transformers has."""
    value = self._values.get(name, default)
    if value not in allowed:
      raise self._error(name, value, 'only ' + ' and '.join(map(json.dumps, allowed))
                        + ' can be converted')
    return value

  def class_names(self) -> list[str]:
    """Returns the names of the classes, in the order of their numbers."""
    # Files leave out the two classes that transformers assumes.
    names = self._values.get('id2label') or {'0': 'LABEL_0', '1': 'LABEL_1'}
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))} or not all(
        isinstance(name, str) for name in names.values()):
      raise ConfigError(f'{self.place}: id2label must have names for the numbers 0, 1, ...')
    return [names[str(i)] for i in range(len(names))]

  def _error(self, name, value, allowed):
    return ConfigError(f'{self.place}: {name} is {str(value)[:60]}: {allowed}')


# === The model ===


def _set_model(settings: _Settings, options) -> None:
  """Sets the Mask2FormerOptions."""
  settings.require('feature_strides', [4, 8, 16, 32], [4, 8, 16, 32])
  settings.require('common_stride', 4, 4)
  settings.require('activation_function', 'relu', 'relu')
  options.num_queries = settings.number('num_queries', 100)
  options.hidden_channels = settings.number('hidden_dim', 256)
  options.mask_channels = settings.number('mask_feature_size', 256)
  # The prediction before the first layer counts as one.
  layers = settings.number('decoder_layers', 10)
  if layers < 2:
    raise ConfigError(f'{settings.place}: decoder_layers is {layers}: it must be at least 2')
  options.num_layers = layers - 1
  options.num_heads = settings.number('num_attention_heads', 8)
  options.feed_forward_channels = settings.number('dim_feedforward', 2048)
  options.pre_norm = settings.flag('pre_norm')
  options.force_input_projection = settings.flag('enforce_input_projection')
  decoder = options.pixel_decoder
  decoder.channels = settings.number('feature_size', 256)
  decoder.num_layers = settings.number('encoder_layers', 6)
  decoder.feed_forward_channels = settings.number('encoder_feedforward_dim', 1024)


def _set_backbone(settings: _Settings, options) -> None:
  """Sets the BackboneOptions."""
  set_sizes = {'swin': _set_swin, 'resnet': _set_resnet}
  settings.require('num_channels', 3, 3)
  set_sizes[settings.require('model_type', '', *set_sizes)](settings, options)


def _set_swin(settings, options):
  for name, value in (('patch_size', 4), ('mlp_ratio', 4.0), ('qkv_bias', True),
                      ('use_absolute_embeddings', False), ('hidden_act', 'gelu'),
                      ('layer_norm_eps', 1e-5)):
    settings.require(name, value, value)
  sizes = swin.SwinSizes(settings.number('embed_dim', 96),
                         tuple(settings.numbers('depths', (2, 2, 6, 2))),
                         tuple(settings.numbers('num_heads', (3, 6, 12, 24))),
                         settings.number('window_size', 7))
  _set_sizes(sizes, swin.VARIANTS, 'swin_tiny', options, options.swin)
  dropped = settings.rate('drop_path_rate', 0.1)
  if dropped:
    options.drop_path_keep_prob, options.drop_path_schedule = 1 - dropped, 'linear'


def _set_resnet(settings, options):
  for name, value in (('layer_type', 'bottleneck'), ('hidden_act', 'relu'),
                      ('downsample_in_first_stage', False)):
    settings.require(name, value, value)
  channels = settings.numbers('hidden_sizes', (256, 512, 1024, 2048))
  if channels[0] % 4 or channels != [channels[0] * 2**i for i in range(4)]:
    raise ConfigError(f'{settings.place}: hidden_sizes is {channels}: only sizes can be converted '
                      'of which each is twice the one before, and the first divides by 4')
  sizes = torchvision_resnet.ResNetSizes(tuple(settings.numbers('depths', (3, 4, 6, 3))),
                                         settings.number('embedding_size', 64),
                                         channels[0] // 4, channels[0])
  # As in Mask2Former's own configs for COCO.
  options.resnet.frozen_batch_norm = True
  if settings.flag('downsample_in_bottleneck'):
    options.resnet.stride_in_1x1 = True
  _set_sizes(sizes, torchvision_resnet.VARIANTS, 'torchvision_resnet50', options, options.resnet)


def _set_sizes(sizes, variants, base, options, changes) -> None:
  """Sets a variant's name, or the name of one and the sizes that differ from it."""
  options.name = next((name for name, own in variants.items() if own == sizes), base)
  for field, value in sizes._asdict().items():
    if value == getattr(variants[options.name], field):
      continue
    if isinstance(value, tuple):
      getattr(changes, field).extend(value)
    else:
      setattr(changes, field, value)


# === The classes ===


def _set_classes(names: Sequence[str], options: data_pb2.DatasetOptions,
                 num_queries: int) -> tuple[str, ...]:
  """Sets the data set; returns lines for the user."""
  for known in catalog.built_in_names():
    info = catalog.built_in(known)
    same = _same_names(names, info)
    if same >= _SAME_NAMES * len(names) and len(names) == len(info.categories):
      options.dataset = known
      return (f'The classes are those of {known}: {same} of {len(names)} have its names.',)
  options.dataset = 'label_folders'
  for number, name in enumerate(names):
    options.label_folders.categories.add(id=number, name=name, isthing=True)
  options.label_folders.label_divisor = _LABEL_DIVISOR
  while options.label_folders.label_divisor <= num_queries:
    options.label_folders.label_divisor *= 2
  return (f'The {len(names)} classes are of no known data set: all are things. To make some of '
          f'them stuff, set isthing to false in {OUTPUT}.',)


def _same_names(names: Sequence[str], info: DatasetInfo) -> int:
  """Returns how many names are those of a data set, at the same place."""
  return sum(_plain(name) == _plain(category.name)
             for name, category in zip(names, info.categories))


def _plain(name: str) -> str:
  """Returns the first of several synonyms, in lower case."""
  return re.split('[,;]', name.lower())[0].strip()
