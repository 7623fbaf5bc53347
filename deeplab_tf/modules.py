"""Finds modules by the names in a config, which are module paths."""

import difflib
import importlib
import pathlib
import types
from typing import Iterable

from deeplab_tf.user_errors import ConfigError

_ROOT = pathlib.Path(__file__).resolve().parent


def available(package: str) -> list[str]:
  """Returns the names of the modules in deeplab_tf/<package>, sorted."""
  folder = _ROOT.joinpath(*package.split('.'))
  return sorted(p.stem for p in folder.glob('*.py') if not p.stem.startswith('_'))


def nearest(name: str, choices: Iterable[str]) -> str:
  """Returns ' Did you mean "x"?' for the most similar choice, or an empty string."""
  match = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
  return f' Did you mean "{match[0]}"?' if match else ''


def load(package: str, name: str) -> types.ModuleType:
  """Imports deeplab_tf.<package>.<name>.

  Args:
    package: Package of deeplab_tf, e.g. 'models' or 'data.sources'.
    name: Name of a module in the package.

  Raises:
    ValueError: There is no such module; the message lists the available ones.
  """
  choices = available(package)
  if name not in choices:
    raise ConfigError(f'unknown name "{name}" in {package}: there are {", ".join(choices)}.'
                      f'{nearest(name, choices)}')
  return importlib.import_module(f'deeplab_tf.{package}.{name}')
