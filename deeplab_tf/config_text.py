"""Reads textprotos of experiments and merges them: base, file, overrides."""

import codecs
import os
import re
import unicodedata

from google.protobuf import descriptor as descriptor_lib
from google.protobuf import message as message_lib
from google.protobuf import text_format

from deeplab_tf import listing, modules
from deeplab_tf.protos import config_pb2
from deeplab_tf.user_errors import ConfigError

_UNKNOWN_FIELD = re.compile(r'Message type "([\w.]+)" has no field named "(\w+)"')
_UNKNOWN_ENUM = re.compile(r'Enum type "([\w.]+)" has no value (?:named|with number) (.+?)\.?$')
_NO_STRING = re.compile(r"Expected string but found: '(.*)'$")
_QUOTED_NUMBER = re.compile(r'Couldn\'t parse (?:integer|float): (["\'].*["\'])$')
_QUOTED = re.compile(r'(["\'])(.*)\1')
_POSITION = re.compile(r'^(\d+):\d+ : ')
# Fields that control the merge and are not part of an experiment.
_LAYERING = ('base_config', 'clear')


def read(path: str) -> tuple[config_pb2.ExperimentOptions, str]:
  """Reads a file and its bases.

  Args:
    path: Path of a textproto of ExperimentOptions.

  Returns:
    The unchecked experiment, and the names of its files for messages: 'a' or 'a over b'.

  Raises:
    ConfigError: A file cannot be read or parsed, or a file is its own base.
  """
  files = [path]
  layers = [_parse(_read_text(path), path)]
  while layers[-1].base_config:
    files.append(_find_base(files, layers[-1].base_config))
    layers.append(_parse(_read_text(files[-1]), files[-1]))
  if layers[-1].clear:
    raise ConfigError(f'{files[-1]}: clear removes fields of a base_config, and there is none')
  config = config_pb2.ExperimentOptions()
  for file, layer in zip(reversed(files), reversed(layers)):
    _lay_over(config, layer, file)
  return config, ' over '.join(files)


def override(config: config_pb2.ExperimentOptions, text: str) -> None:
  """Merges the text of an --override into an experiment.

  Raises:
    ConfigError: The text cannot be parsed, or sets base_config.
  """
  source = f'--override={text!r}'
  text = text.removeprefix('\ufeff')
  try:
    text.encode('utf-8')
  except UnicodeEncodeError as error:
    byte = ord(text[error.start]) & 0xff
    raise ConfigError(f'{source}: is not UTF-8 (byte 0x{byte:02x}); set the terminal to UTF-8, or '
                      'write it into the config file') from None
  layer = _parse(text, source)
  if layer.HasField('base_config'):
    raise ConfigError(f'{source}: set base_config in the file itself')
  _lay_over(config, layer, source)


# --- Files ------------------------------------------------------------------------------------


def _find_base(files: list[str], base: str) -> str:
  """Returns the path of the base of the last file; errors name that file."""
  path = os.path.join(os.path.dirname(files[-1]), base)
  where = f'{files[-1]}: base_config "{base}"'
  if os.path.isdir(path):
    raise ConfigError(f'{where} is a folder; it takes a .textproto file')
  if not os.path.isfile(path):  # A device might have no end.
    raise ConfigError(f'{where}: no such file.{_nearest_file(path)}')
  seen = [os.path.realpath(file) for file in files]
  if os.path.realpath(path) in seen:
    circle = files[seen.index(os.path.realpath(path)):] + [path]
    raise ConfigError(f'{where}: a file cannot build on itself: {" over ".join(circle)}')
  return path


def _read_text(path: str) -> str:
  try:
    with open(path, 'rb') as file:
      content = file.read()
  except IsADirectoryError:
    raise ConfigError(f'{path}: is a folder; --config_file takes a .textproto file') from None
  except FileNotFoundError:
    raise ConfigError(f'{path}: no such file.{_nearest_file(path)}') from None
  return _decode(content, path)


def _decode(content: bytes, path: str) -> str:
  """Returns a text without byte order marks and with Unix line endings."""
  if _is_utf16(content):
    raise ConfigError(f'{path}: is UTF-16, which Windows calls "Unicode"; save it as UTF-8')
  try:
    text = content.decode('utf-8')
  except UnicodeDecodeError as error:
    line = content.count(b'\n', 0, error.start) + 1
    raise ConfigError(f'{path}:{line}: is not UTF-8 (byte 0x{content[error.start]:02x}); save it '
                      'as UTF-8, or give another file if it is no .textproto') from None
  if '\0' in text:
    line = text.count('\n', 0, text.index('\0')) + 1
    raise ConfigError(f'{path}:{line}: has a NUL byte, so it is no text file; a config is a '
                      '.textproto file')
  # Concatenated files have a mark at the start of each.
  return re.sub('^\ufeff', '', text.replace('\r\n', '\n').replace('\r', '\n'), flags=re.MULTILINE)


def _is_utf16(content: bytes) -> bool:
  if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    return True
  # Without a mark, every second byte of English text is 0.
  halves = content[0::2], content[1::2]
  return len(content) > 3 and any(2 * half.count(0) > len(half) and not other.count(0)
                                  for half, other in (halves, halves[::-1]))


def _nearest_file(path: str) -> str:
  folder = os.path.dirname(path) or '.'
  if not os.path.isdir(folder):
    return f' The folder {folder} does not exist either.'
  names = listing.files(folder, ('.textproto',))
  return modules.nearest(os.path.basename(path), names)


# --- Parsing ----------------------------------------------------------------------------------


def _parse(text: str, source: str) -> config_pb2.ExperimentOptions:
  message = config_pb2.ExperimentOptions()
  try:
    text_format.Parse(text, message)
  except text_format.ParseError as error:
    raise ConfigError(f'{source}{_explain(str(error), text)}') from None
  return message


def _explain(error: str, source: str) -> str:
  """Converts protobuf's 'line:column : text' to ':line: text' with the nearest valid name."""
  position = _POSITION.match(error)
  line = f':{position.group(1)}' if position else ''
  text = _POSITION.sub('', error).strip()
  field = _UNKNOWN_FIELD.search(text)
  enum = _UNKNOWN_ENUM.search(text)
  if field:
    text = _unknown_field(field.group(2), _find_message(field.group(1)))
  elif enum:
    text = _unknown_value(enum.group(2), _find_enum(enum.group(1)))
  else:
    text += _quotes_hint(text)
    if position:
      text += _invisible_hint(source.split('\n')[int(position.group(1)) - 1])
  return f'{line}: {text}'


def _unknown_value(value: str, enum: descriptor_lib.EnumDescriptor) -> str:
  names = list(enum.values_by_name)
  quoted = _QUOTED.fullmatch(value)
  plain = quoted.group(2) if quoted else value
  if quoted and plain in names:
    return (f'{value} is in quotes, and the values of {_short(enum.full_name)} are written '
            f'without: {plain}')
  same = [name for name in names if name.lower() == plain.lower()]
  hint = f' Did you mean "{same[0]}"?' if same else modules.nearest(plain, names)
  return (f'unknown value "{plain}" of {_short(enum.full_name)}: allowed are {", ".join(names)}'
          f'{", without quotes" if quoted else ""}.{hint}')


def _quotes_hint(text: str) -> str:
  """Returns advice about missing or superfluous quotes, or ''."""
  unquoted, quoted = _NO_STRING.search(text), _QUOTED_NUMBER.search(text)
  if unquoted:
    return f'; a text is written in quotes: "{unquoted.group(1)}"'
  if quoted:
    return f'; a number is written without quotes: {quoted.group(1)[1:-1]}'
  return ' Write it without quotes.' if text.endswith('Expected "true" or "false".') else ''


def _invisible_hint(line: str) -> str:
  """Returns a hint that lists invisible characters, which may be the cause of an error, or ''."""
  found = sorted({char for char in line if char not in ' \t'
                  and unicodedata.category(char) in ('Cc', 'Cf', 'Zs', 'Zl', 'Zp')})
  if not found:
    return ''
  names = ', '.join(f'U+{ord(char):04X}' for char in found)
  return f' (the line holds invisible characters, {names}: type it again without them)'


def _unknown_field(name: str, message: descriptor_lib.Descriptor) -> str:
  names = list(message.fields_by_name)
  return (f'unknown field "{name}" in {_short(message.full_name)}.'
          f'{modules.nearest(name, names) or " It has: " + ", ".join(names) + "."}')


def _find_message(full_name: str):
  return config_pb2.DESCRIPTOR.pool.FindMessageTypeByName(full_name)


def _find_enum(full_name: str):
  return config_pb2.DESCRIPTOR.pool.FindEnumTypeByName(full_name)


def _short(full_name: str) -> str:
  return full_name.split('.', 1)[1]


# --- Merging ----------------------------------------------------------------------------------


def _lay_over(config: config_pb2.ExperimentOptions, layer: config_pb2.ExperimentOptions,
              source: str) -> None:
  """Removes the fields listed in a layer's `clear`, then merges the layer, which is modified."""
  for path in layer.clear:
    _clear(config, path, source)
  for name in _LAYERING:
    layer.ClearField(name)
  _merge(config, layer)


def _clear(config: config_pb2.ExperimentOptions, path: str, source: str) -> None:
  """Removes the field with a dotted path, if it is set."""
  *parents, last = path.split('.')
  where = f'{source}: clear "{path}"'
  message, descriptor = config, config.DESCRIPTOR
  for name in parents:
    field = _field(descriptor, name, where)
    if field.message_type is None:
      raise ConfigError(f'{where}: {name} has no fields')
    if _is_repeated(field):
      raise ConfigError(f'{where}: {name} is repeated and can be cleared as a whole only')
    descriptor = field.message_type
    message = getattr(message, name) if message is not None and message.HasField(name) else None
  _field(descriptor, last, where)
  if path in _LAYERING:
    raise ConfigError(f'{where}: only fields of the experiment can be cleared')
  if message is not None:
    message.ClearField(last)


def _field(message: descriptor_lib.Descriptor, name: str,
           where: str) -> descriptor_lib.FieldDescriptor:
  if name not in message.fields_by_name:
    raise ConfigError(f'{where}: {_unknown_field(name, message)}')
  return message.fields_by_name[name]


def _is_repeated(field: descriptor_lib.FieldDescriptor) -> bool:
  return field.label == descriptor_lib.FieldDescriptor.LABEL_REPEATED


def _merge(target: message_lib.Message, source: message_lib.Message) -> None:
  """Merges source into target; repeated fields and other members of a oneof are replaced."""
  for field, value in source.ListFields():
    if _is_repeated(field):
      target.ClearField(field.name)
      getattr(target, field.name).MergeFrom(value)
    elif field.message_type is not None:
      _merge_message(getattr(target, field.name), value)
    else:
      setattr(target, field.name, value)


def _merge_message(target: message_lib.Message, source: message_lib.Message) -> None:
  target.SetInParent()
  _merge(target, source)
