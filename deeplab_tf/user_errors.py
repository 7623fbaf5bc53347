"""Errors for users: one line that says what was given, what is allowed and what to do.

Programs print only the message of these errors. Any other exception is a bug and is printed with
its traceback (cli.run).
"""


class UserError(ValueError):
  """Base class of errors for users; the message is one line.

  Attributes:
    exit_code: Exit code of a program that fails with the error.
  """
  exit_code = 2


class UsageError(UserError):
  """The flags or arguments of a program are invalid or contradict each other."""


class ConfigError(UserError):
  """The config is invalid."""


class DataError(UserError):
  """An image, a record, an annotation or a prediction is invalid."""


class CheckpointError(UserError):
  """A checkpoint or an exported model is invalid."""


class HostError(UserError):
  """The machine, its devices, disks or other processes do not allow the operation."""


class MissingFileError(UserError, FileNotFoundError):
  """A file or a folder does not exist."""
