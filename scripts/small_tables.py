"""Trainings of the rows of a paper's tables at a small size, and their results as tables.

A script such as mask2former_tables.py names the config and the rows. Finished trainings are passed
over, and each result is added to a file, so that the same command goes on where it was stopped.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Sequence

from deeplab_tf import config as config_lib
from deeplab_tf.formats import atomic_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
_TRAIN_IMAGES = 6000
# The first and the last row of a table have several seeds, since the seed alone changes scores.
_SEEDS = 3


class Row(NamedTuple):
  """A row of a table.

  Attributes:
    name: Name of the row in the paper.
    options: Override of the config, '' for the config as it is.
    paper: PQ of the row on COCO panoptic in the paper, in percent.
  """
  name: str
  options: str
  paper: float


# Name of a table -> its rows.
Tables = Mapping[str, Sequence[Row]]


def run(doc: str, config: str, tables: Tables, shown: Sequence[str]) -> None:
  """Runs a script.

  Args:
    doc: Docstring of the script: title, command, notes.
    config: Path of the config in the repository, which the options of the rows override.
    tables: The tables.
    shown: Names of the tables that are trained and printed unless others are asked for.
  """
  args = _parse(doc, tables, shown)
  args.output_dir.mkdir(parents=True, exist_ok=True)
  solver = config_lib.load_config(ROOT / config).trainer_options.solver_options
  results = Results(args.results or args.output_dir / 'results.jsonl', config,
                    solver.training_number_of_steps)
  end, left = time.monotonic() + 60 * args.minutes, 0
  chosen = {name: tables[name] for name in args.tables}
  for options, seed in trainings(chosen):
    if results.find(options, seed) is not None:
      continue
    if time.monotonic() >= end:
      left += 1
      continue
    records = _records(args.output_dir)
    folder = args.output_dir / _folder(config, results.steps, options, seed)
    results.add({'options': options, 'seed': seed,
                 **_train(config, folder, records, options, seed)})
  for name, rows in chosen.items():
    print(*table(name, rows, results), '', sep='\n')
  if left:
    print(f'{left} trainings are left; rerun the same command to go on')


def _parse(doc, tables, shown) -> argparse.Namespace:
  title, _, notes = doc.split('\n\n', maxsplit=2)
  parser = argparse.ArgumentParser(description=title, epilog=notes)
  parser.add_argument('--output_dir', type=pathlib.Path, required=True, metavar='D',
                      help='folder of the trainings')
  parser.add_argument('--results', type=pathlib.Path, metavar='F',
                      help='file of the results (default: results.jsonl in the output folder)')
  parser.add_argument('--tables', default=shown, metavar='A,B,...',
                      type=lambda text: tuple(text.split(',')),
                      help=f'tables, of {", ".join(tables)} (default: {",".join(shown)})')
  parser.add_argument('--minutes', type=float, default=float('inf'), metavar='N',
                      help='time after which no further training is started (default: no limit)')
  args = parser.parse_args()
  # The programs run in the folder of the repository.
  args.output_dir = args.output_dir.resolve()
  unknown = [name for name in args.tables if name not in tables]
  if unknown:
    parser.error(f'there is no table "{unknown[0]}": the tables are {", ".join(tables)}')
  return args


class Results:
  """The results of finished trainings, a line of JSON each.

  A file may hold those of other configs and of other numbers of steps, which do not count.

  Attributes:
    config: Path of the config.
    steps: Number of steps of the trainings.
  """

  def __init__(self, path: pathlib.Path, config: str, steps: int):
    self.config, self.steps = config, steps
    self._path = path
    self._all = self._read()

  def _read(self) -> list[dict[str, Any]]:
    lines = self._path.read_text(encoding='utf-8').splitlines() if self._path.exists() else []
    return [json.loads(line) for line in lines if line.strip()]

  def find(self, options: str, seed: int) -> Optional[dict[str, Any]]:
    """Returns the result of a training, or None."""
    key = (self.config, self.steps, options, seed)
    found = [r for r in self._all if (r['config'], r['steps'], r['options'], r['seed']) == key]
    return found[-1] if found else None

  def add(self, result: dict[str, Any]) -> None:
    """Adds a result to the file, which is written whole and may have got others meanwhile."""
    self._all = [*self._read(), {'config': self.config, **result}]
    with atomic_file.writing(self._path) as file:
      file.writelines(json.dumps(line) + '\n' for line in self._all)


def _seeds(rows: Sequence[Row], index: int) -> range:
  """Returns the seeds of a row."""
  return range(_SEEDS if index in (0, len(rows) - 1) else 1)


def trainings(tables: Tables) -> list[tuple[str, int]]:
  """Returns options and seed of all trainings, those of the first seed first."""
  runs = {(row.options, seed) for rows in tables.values() for index, row in enumerate(rows)
          for seed in _seeds(rows, index)}
  order = list(dict.fromkeys(row.options for rows in tables.values() for row in rows))
  return sorted(runs, key=lambda run: (run[1], order.index(run[0])))


def _folder(config: str, steps: int, options: str, seed: int) -> str:
  """Returns the name of a training's folder, in which it goes on if it was stopped."""
  key = f'{config} {steps} {options}'
  return f'{hashlib.sha256(key.encode()).hexdigest()[:8]}-seed{seed}'


# === Training ===


def _records(folder: pathlib.Path) -> str:
  """Returns the pattern of the training images, which are generated once."""
  records = folder / 'records'
  pattern = str(records / 'train-*.tfrecord')
  if not (records / 'complete').exists():
    subprocess.run([sys.executable, '-m', 'deeplab_tf.data.build', '--dataset=shapes',
                    '--split=train', f'--num_images={_TRAIN_IMAGES}', f'--output_dir={records}'],
                   cwd=ROOT, check=True)
    (records / 'complete').touch()
  return pattern


def _train(config: str, folder: pathlib.Path, records: str, options: str,
           seed: int) -> dict[str, Any]:
  """Trains once and returns the scores, in percent, seconds per step and the peak memory."""
  overrides = [options, f'trainer_options {{ seed: {seed} }}',
               f'train_dataset_options {{ file_pattern: {json.dumps(records)} }}']
  command = [sys.executable, 'trainer/train.py', '--mode=train_and_eval',
             f'--config_file={config}', f'--model_dir={folder}',
             *[f'--override={text}' for text in overrides if text]]
  print(f'{folder.name}: seed {seed}, {options or "the config as it is"}', flush=True)
  start = time.monotonic()
  with open(folder.with_suffix('.log'), 'w', encoding='utf-8') as log:
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    _, status, usage = os.wait4(process.pid, 0)
  if status:
    sys.exit(f'error: the training failed; see {folder.with_suffix(".log")}')
  scores = json.loads((folder / 'metrics.json').read_text(encoding='utf-8'))
  return {'steps': scores['step'],
          **{key: 100 * scores[group]['pq'] for key, group in (
              ('pq', 'All'), ('pq_things', 'Things'), ('pq_stuff', 'Stuff'))},
          'seconds_per_step': seconds_per_step(folder / 'log.jsonl'),
          # Kilobytes, on macOS bytes.
          'memory_gb': usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024) / 1e9,
          'minutes': (time.monotonic() - start) / 60}


def seconds_per_step(log: pathlib.Path) -> float:
  """Returns the median over the logged parts of a training, without its first."""
  points = []
  for line in log.read_text(encoding='utf-8').splitlines():
    entry = json.loads(line)
    if entry['event'] == 'train':
      points.append((datetime.datetime.fromisoformat(entry['time']).timestamp(), entry['step']))
  return statistics.median((b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(points, points[1:]))


# === Tables ===


def table(name: str, rows: Sequence[Row], results: Results) -> Iterable[str]:
  """Returns the lines of a table, as Markdown."""
  yield _line('table ' + name, 'PQ', 'things', 'stuff', 'seeds', 'seconds per step', 'memory',
              "paper's PQ")
  yield _line(*['---'] * 8)
  for row in rows:
    # A row of several tables may have more seeds than this table asks for.
    found = [results.find(row.options, seed) for seed in range(_SEEDS)]
    found = [result for result in found if result]
    if not found:
      yield _line(row.name, *['not yet trained'] + [''] * 5, f'{row.paper:.1f}')
      continue
    yield _line(row.name, *(_spread([r[key] for r in found]) for key in (
        'pq', 'pq_things', 'pq_stuff')), str(len(found)),
                f'{statistics.median(r["seconds_per_step"] for r in found):.2f}',
                f'{max(r["memory_gb"] for r in found):.1f} GB', f'{row.paper:.1f}')


def _spread(values: list[float]) -> str:
  """Returns the mean, and smallest and largest value of several."""
  mean = f'{statistics.mean(values):.1f}'
  return mean if len(values) == 1 else f'{mean} ({min(values):.1f} to {max(values):.1f})'


def _line(*cells: str) -> str:
  return '| ' + ' | '.join(cells) + ' |'
