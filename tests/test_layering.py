"""Packages import only from packages below them, and there is no cycle of packages.

Inside a package that contains others (`data`), each of them is a package of its own, and so is
each module beside them. Imports inside functions count as well.
"""

import ast
import collections
import graphlib
import pathlib

import house_figures
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Rows from the bottom up; within a row from left to right.
ROWS = (
    ('user_errors', 'compat', 'classes', 'protos', 'modules', 'listing', 'file_names',
     'image_names', 'formats', 'structures', 'mask_values'),
    ('config_text', 'config_fields', 'config_sizes', 'config', 'cli', 'arguments', 'tasks',
     'architecture'),
    ('layers', 'matching', 'visualization'),
    ('backbones', 'pixel_decoders', 'transformer_decoders', 'heads', 'losses', 'postprocessing',
     'metrics', 'data'),
    ('models',),
    ('checkpoints', 'profiling', 'export', 'results', 'segmenter', 'scoring', 'training', 'reports',
     'benchmark'),
    ('trainer', 'evaluation'),
)
PLACES = {name: (row, column) for row, names in enumerate(ROWS)
          for column, name in enumerate(names)}


def _sources():
  for folder, prefix in (('deeplab_tf', ''), ('trainer', 'trainer'), ('evaluation', 'evaluation')):
    for path in sorted((ROOT / folder).rglob('*.py')):
      if path.name.endswith('_pb2.py'):
        continue
      parts = path.relative_to(ROOT / folder).with_suffix('').parts
      parts = parts[:-1] if parts[-1] == '__init__' else parts
      yield path, '.'.join([prefix, *parts]).strip('.')


SOURCES = list(_sources())
MODULES = {module for _, module in SOURCES}


def _imports(path):
  """Yields line and module of what a file imports."""
  return house_figures.imports(ast.parse(path.read_text(encoding='utf-8')), MODULES)


def _unit(module: str) -> str:
  """Returns the package that a module lies in; itself where that package has others inside."""
  parent = module.rpartition('.')[0]
  has_packages = any(other.startswith(f'{parent}.') and other.count('.') > parent.count('.') + 1
                     for other in MODULES)
  return parent if parent and not has_packages else module


@pytest.mark.parametrize('path,module', SOURCES, ids=lambda v: str(v)[-60:])
def test_a_module_imports_only_what_lies_below_it(path, module):
  own = module.split('.')[0]
  assert not own or own in PLACES, f'{path}: no row of the layering names it; add it to ROWS'
  for line, imported in _imports(path):
    other = imported.split('.')[0]
    if own and other != own:
      assert PLACES[other] < PLACES[own], f'{path}:{line}: {own} must not import {other}'


def test_no_circle_of_packages():
  arrows = collections.defaultdict(dict)
  for path, module in SOURCES:
    for line, imported in _imports(path):
      if module and _unit(module) != _unit(imported):
        arrows[_unit(module)][_unit(imported)] = f'{path.relative_to(ROOT)}:{line}'
  try:
    tuple(graphlib.TopologicalSorter(arrows).static_order())
  except graphlib.CycleError as error:
    circle = error.args[1][::-1]
    pytest.fail('\n'.join(f'{first} imports {second}: {arrows[first][second]}'
                          for first, second in zip(circle, circle[1:])), pytrace=False)


def test_no_library_module_imports_the_programs():
  for path, _ in SOURCES:
    for line, imported in _imports(path):
      assert imported.split('.')[0] not in ('trainer', 'evaluation'), f'{path}:{line}'
