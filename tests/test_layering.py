"""A module imports only from rows above its own, or from modules to its left within its row."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Rows from the bottom up; within a row from left to right. The longest matching name counts.
ROWS = (
    ('user_errors', 'structures', 'protos', 'modules', 'whole_file', 'listing',
     'file_names', 'image_limits'),
    ('config_text', 'config', 'cli', 'arguments', 'layers', 'matching', 'visualization',
     'data.category_entries', 'data.catalog', 'data.errors', 'checkpoints.paths'),
    ('backbones', 'pixel_decoders', 'transformer_decoders', 'heads', 'losses', 'postprocessing',
     'metrics', 'data'),
    ('models',),
    ('checkpoints', 'profiling', 'export', 'segmenter', 'training', 'analysis'),
    ('trainer', 'evaluation'),
)
PLACES = {name: (row, column) for row, names in enumerate(ROWS)
          for column, name in enumerate(names)}


def _place(module: str):
  """Returns the unit that a module belongs to, or None for the package itself."""
  parts = module.split('.')
  for length in range(len(parts), 0, -1):
    name = '.'.join(parts[:length])
    if name in PLACES:
      return name
  return None


def _sources():
  for folder, prefix in (
      ('deeplab_tf', ''), ('trainer', 'trainer.'), ('evaluation', 'evaluation.')):
    for path in sorted((ROOT / folder).rglob('*.py')):
      if path.name.endswith('_pb2.py'):
        continue
      parts = path.relative_to(ROOT / folder).with_suffix('').parts
      parts = parts[:-1] if parts[-1] == '__init__' else parts
      yield path, prefix + '.'.join(parts) if parts else prefix.rstrip('.')


def _imports(path):
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'deeplab_tf':
      module = node.module[len('deeplab_tf'):].lstrip('.')
      for alias in node.names:
        yield node.lineno, f'{module}.{alias.name}'.lstrip('.')
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.name.startswith('deeplab_tf.'):
          yield node.lineno, alias.name[len('deeplab_tf.'):]


@pytest.mark.parametrize('path,module', list(_sources()), ids=lambda v: str(v)[-60:])
def test_a_module_imports_only_what_lies_below_it(path, module):
  own = _place(module)
  if own is None:
    assert module == '', f'{path}: no row of the layering names it; add it to ROWS'
    return
  for line, imported in _imports(path):
    other = _place(imported)
    if other is None or other == own:
      continue
    allowed = PLACES[other][0] < PLACES[own][0] or (
        PLACES[other][0] == PLACES[own][0] and PLACES[other][1] < PLACES[own][1])
    assert allowed, f'{path}:{line}: {own} must not import {other}'


def test_no_library_module_imports_the_programs():
  for path, _ in _sources():
    for line, imported in _imports(path):
      assert imported.split('.')[0] not in ('trainer', 'evaluation'), f'{path}:{line}'
