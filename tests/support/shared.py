"""Finds the reference data beside the project."""

import importlib.util
import os
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def folder() -> pathlib.Path:
  """Returns the folder of reference data, whether or not it exists."""
  return pathlib.Path(os.environ.get('DEEPLAB_SHARED', _ROOT.parent / 'shared'))


def path(*parts: str) -> pathlib.Path:
  """Returns a path in the reference data; skips the test where that is absent.

  With DEEPLAB_REQUIRE_SHARED=1 (set by `make parity`) absence fails the test.
  """
  found = folder().joinpath(*parts)
  if not found.exists():
    message = f'no reference data at {found}; set DEEPLAB_SHARED to their folder'
    if os.environ.get('DEEPLAB_REQUIRE_SHARED') == '1':
      pytest.fail(message)
    pytest.skip(message)
  return found


def recipe():
  """Returns the module that makes the weights and inputs of parity cases."""
  spec = importlib.util.spec_from_file_location('parity_recipe', path('parity', 'recipe.py'))
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
