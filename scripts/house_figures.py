"""Measures the code: sizes, arrows between packages, documentation, tests, words.

  python scripts/house_figures.py [FOLDER]     (or: make figures)

FOLDER is another checkout, to compare two states. Generated modules and tests do not count, unless
a line says so. The time of `make test` is the one figure that this does not tell.
"""

import argparse
import ast
import collections
import pathlib
import re
import sys
from typing import Container, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAMS = ('trainer', 'evaluation', 'scripts')
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Words that an argument's description should not begin with.
FIRST_WORDS = ('Of', 'What', 'Its', 'Their')
_ARGUMENT = re.compile(r'^ {2,}\*{0,2}[a-z_]\w*(?:, \*{0,2}\w+)*: (\w+)')
_MENTION = re.compile(r'\b(?:TARGETS|MASKS_COMPETE)\b')
_SECTIONS = ('Args:', 'Attributes:')
_OTHER_SECTIONS = ('Returns:', 'Raises:', 'Yields:')


class Code:
  """The Python modules of a checkout.

  Attributes:
    root: The checkout.
    files: Path of a file -> its text, the library and the programs.
    trees: Path of a file -> its syntax tree.
  """

  def __init__(self, root: pathlib.Path):
    """Reads the files.

    Args:
      root: The checkout.
    """
    self.root = root
    self.files = {path: path.read_text(encoding='utf-8')
                  for folder in ('deeplab_tf', *PROGRAMS)
                  for path in sorted((root / folder).rglob('*.py'))
                  if not path.name.endswith('_pb2.py')}
    self.trees = {path: ast.parse(text) for path, text in self.files.items()}

  @property
  def modules(self) -> dict[str, pathlib.Path]:
    """Name of a module below deeplab_tf -> its file."""
    found = {}
    for path in self.files:
      parts = path.relative_to(self.root).with_suffix('').parts
      if parts[0] == 'deeplab_tf' and len(parts) > 1:
        parts = parts[1:-1] if parts[-1] == '__init__' else parts[1:]
        found['.'.join(parts)] = path
    found.pop('', None)
    return found


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
  return (node for node in ast.walk(tree)
          if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def sizes(code: Code) -> dict[str, object]:
  """Returns how many files and functions are long, and which, and the lines of the models."""
  files = [str(path.relative_to(code.root)) for path, text in code.files.items()
           if text.count('\n') > MAX_FILE_LINES]
  functions = [f'{path.relative_to(code.root)}:{node.name}'
               for path, tree in code.trees.items() for node in _functions(tree)
               if node.end_lineno - node.lineno >= MAX_FUNCTION_LINES]
  models = {path.name: text.count('\n') for path, text in code.files.items()
            if path.parent == code.root / 'deeplab_tf' / 'models'}
  return {f'files over {MAX_FILE_LINES} lines': _listed(files),
          f'functions over {MAX_FUNCTION_LINES} lines': _listed(functions),
          'lines of models/*.py': ', '.join(f'{name} {lines}' for name, lines in models.items()),
          'lines in all': sum(text.count('\n') for text in code.files.values())}


def arrows(code: Code) -> dict[str, object]:
  """Returns how many packages import another one, and which two import each other."""
  modules = code.modules
  packages = {name.split('.')[0] for name in modules if '.' in name}
  found = collections.defaultdict(set)
  for name, path in modules.items():
    for _, imported in imports(code.trees[path], modules):
      pair = name.split('.')[0], imported.split('.')[0]
      if pair[0] != pair[1]:
        found[pair[0]].add(pair[1])
  pairs = [(a, b) for a, targets in found.items() for b in targets]
  both = sorted(f'{a} and {b}' for a, b in pairs if a < b and (b, a) in pairs)
  return {'packages and single modules': len({name.split('.')[0] for name in modules}),
          'arrows between packages': sum(a in packages and b in packages for a, b in pairs),
          'arrows between packages and single modules': len(pairs),
          'pairs that import each other': _listed(both)}


def imports(tree: ast.AST, modules: Container[str]) -> Iterator[tuple[int, str]]:
  """Yields what a module imports of deeplab_tf, inside of functions too.

  Args:
    tree: Syntax tree of the module.
    modules: Names of the modules below deeplab_tf, e.g. 'data.catalog'.

  Yields:
    (line, the longest beginning of the imported name that is a module).
  """
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'deeplab_tf':
      base = node.module[len('deeplab_tf'):].lstrip('.')
      names = [f'{base}.{alias.name}'.lstrip('.') for alias in node.names]
    elif isinstance(node, ast.Import):
      names = [alias.name[len('deeplab_tf.'):] for alias in node.names
               if alias.name.startswith('deeplab_tf.')]
    else:
      continue
    for name in names:
      while name and name not in modules:
        name = name.rpartition('.')[0]
      if name:
        yield node.lineno, name


def documentation(code: Code) -> dict[str, object]:
  """Returns the share of public functions with a docstring, and how arguments are described."""
  public = [node for tree in code.trees.values() for node in _functions(tree)
            if not node.name.startswith('_')]
  documented = sum(ast.get_docstring(node) is not None for node in public)
  counts = collections.Counter()
  for tree in code.trees.values():
    for node in ast.walk(tree):
      if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        counts.update(_first_words(ast.get_docstring(node) or ''))
  words = ', '.join(f'{word} {counts[word]}' for word in FIRST_WORDS)
  return {'public functions with a docstring':
          f'{documented} of {len(public)}, {documented / len(public):.1%}',
          'arguments described by "Of", "What", "Its", "Their"':
          f'{sum(counts[word] for word in FIRST_WORDS)} ({words})'}


def _first_words(docstring: str) -> Iterator[str]:
  """The first word of each argument's and attribute's description."""
  inside = False
  for line in docstring.splitlines():
    text = line.strip()
    # A docstring of __init__ may begin with its arguments.
    if text in _SECTIONS or text in _OTHER_SECTIONS:
      inside = text in _SECTIONS
    elif inside and _ARGUMENT.match(line):
      yield _ARGUMENT.match(line)[1]


def tests(code: Code) -> dict[str, object]:
  """Returns how many modules have a test of their own name."""
  names = {path.relative_to(code.root / 'tests').with_suffix('').as_posix()
           for path in (code.root / 'tests').rglob('test_*.py')}
  modules = [name for name, path in code.modules.items() if path.name != '__init__.py']
  mirrored = 0
  for name in modules:
    folder, _, leaf = name.replace('.', '/').rpartition('/')
    mirrored += f'{folder}/test_{leaf.lstrip("_")}'.lstrip('/') in names
  return {'modules with a mirrored test': f'{mirrored} of {len(modules)}'}


def contracts(code: Code) -> dict[str, object]:
  """Returns how often modules ask for the form of a model by name, tests included."""
  texts = [*code.files.values(),
           *(p.read_text(encoding='utf-8') for p in (code.root / 'tests').rglob('*.py'))]
  own = pathlib.Path(__file__).name
  count = sum(len(_MENTION.findall(text)) for text in texts if own not in text[:600])
  library = sum(len(_MENTION.findall(text)) for path, text in code.files.items()
                if path.name != own)
  return {'mentions of TARGETS and MASKS_COMPETE': f'{library} ({count} with tests)'}


def _listed(names: list) -> str:
  return f'{len(names)}' + (f' ({", ".join(names)})' if names else '')


def main() -> int:
  """Prints the figures."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', nargs='?', default=str(ROOT), help='a checkout (default: this one)')
  root = pathlib.Path(parser.parse_args().folder).resolve()
  if not (root / 'deeplab_tf').is_dir():
    print(f'error: {root} is no checkout: it has no folder deeplab_tf', file=sys.stderr)
    return 2
  code = Code(root)
  for measure in (sizes, arrows, documentation, tests, contracts):
    for name, value in measure(code).items():
      print(f'{name:<55} {value}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
