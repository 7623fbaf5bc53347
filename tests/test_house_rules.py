"""The house rules: short files and functions, little nesting, documented public names."""

import ast
import pathlib

import pytest
from house_figures import MAX_FILE_LINES, MAX_FUNCTION_LINES

ROOT = pathlib.Path(__file__).resolve().parents[1]
MAX_ARGUMENTS = 10
MAX_NESTING = 3

# Where breaking a rule makes better code: 'file' or 'file:function', and why.
EXCEPTIONS = {
    'deeplab_tf/models/max_deeplab.py:build':
        'the one place where the whole network is put together, read top-down',
    'deeplab_tf/data/build.py:_write_shards':
        'a pool, a file and a progress bar around two loops of a line each',
    'deeplab_tf/training/dry_run.py:_parts':
        'a short walk over attributes and the lists among them',
}

FILES = [p for folder in ('deeplab_tf', 'trainer', 'evaluation', 'scripts')
         for p in sorted((ROOT / folder).rglob('*.py')) if not p.name.endswith('_pb2.py')]


def _functions(tree):
  for node in ast.walk(tree):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      yield node


def _nesting(node, depth=0):
  deepest = depth
  for child in ast.iter_child_nodes(node):
    inner = isinstance(child, (ast.If, ast.For, ast.While, ast.With, ast.Try))
    # `elif` is an If inside an If's orelse and is not deeper for a reader.
    is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
    if not isinstance(child, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
      deepest = max(deepest, _nesting(child, depth + (inner and not is_elif)))
  return deepest


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
  name = str(path.relative_to(ROOT))
  text = path.read_text(encoding='utf-8')
  assert text.count('\n') <= MAX_FILE_LINES or name in EXCEPTIONS, f'{name}: too long'
  for function in _functions(ast.parse(text)):
    where = f'{name}:{function.name}'
    if where in EXCEPTIONS:
      continue
    assert function.end_lineno - function.lineno < MAX_FUNCTION_LINES, f'{where}: too long'
    arguments = [a.arg for a in function.args.args + function.args.kwonlyargs if a.arg != 'self']
    assert len(arguments) <= MAX_ARGUMENTS, f'{where}: {len(arguments)} arguments'
    assert _nesting(function) <= MAX_NESTING, f'{where}: nested too deeply'


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_names_are_documented_and_typed(path):
  tree = ast.parse(path.read_text(encoding='utf-8'))
  if path.stat().st_size:
    assert ast.get_docstring(tree), f'{path}: the module has no docstring'
  for node in tree.body:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
      assert ast.get_docstring(node), f'{path}:{node.lineno} {node.name} has no docstring'
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      arguments = node.args.args + node.args.kwonlyargs
      untyped = [a.arg for a in arguments if a.annotation is None
                 and a.arg not in ('config', 'options', 'solver', 'model', 'value', 'dataset_info',
                                   'info')]
      if node.name not in ('build', 'build_model') and not node.name.startswith('build_'):
        assert not untyped, f'{path}:{node.lineno} {node.name}: no type for {untyped}'


def test_library_and_programs_leave_no_loose_ends():
  for path in FILES:
    text = path.read_text(encoding='utf-8')
    for word in ('TODO', 'FIXME', 'XXX', 'NotImplementedError', 'pdb.set_trace'):
      assert word not in text, f'{path}: {word}'
    for start in ('"/work', "'/work", '"/root', "'/root", '"/home', "'/home"):
      assert start not in text, f'{path}: a path of one machine'


def test_one_module_decides_which_keras_is_used():
  for path in FILES:
    if path.name == 'compat.py':
      continue
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [
          node.module or ''] if isinstance(node, ast.ImportFrom) else []
      found = [name for name in names if name.split('.')[0] in ('keras', 'tf_keras')]
      found += ['tf.keras'] * (isinstance(node, ast.Attribute) and ast.unparse(node) == 'tf.keras')
      assert not found, f'{path}:{node.lineno}: {found[0]}; import it from deeplab_tf.compat'
