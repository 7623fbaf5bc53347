"""Errors meant for users: what was given, what is allowed and what to do, in one line.

Code raises them on purpose, and a program prints the line alone. Any other exception is a fault of
the program and keeps its traceback (cli.run).
"""


class UserError(ValueError):
  """Base class; the message is one line.

  Attributes:
    exit_code: Exit code of a program that ends with the error.
  """
  exit_code = 2


class UsageError(UserError):
  """The flags or arguments of a program do not fit together."""


class ConfigError(UserError):
  """A config that cannot be used."""


class DataError(UserError):
  """An image, a record, an annotation or a prediction that cannot be used."""


class CheckpointError(UserError):
  """A checkpoint or an exported model that cannot be used."""


class HostError(UserError):
  """The machine, its devices, disks or other processes do not allow what was asked for."""


class MissingFileError(UserError, FileNotFoundError):
  """A file or a folder that does not exist."""
