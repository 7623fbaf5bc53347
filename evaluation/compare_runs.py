"""Compares trainings: their panoptic quality over time in one picture, and a table.

  python evaluation/compare_runs.py --output=curves.png runs/a runs/b --names=MaX,Mask2Former
"""

import sys
from typing import Optional, Sequence

from deeplab_tf import arguments, cli
from deeplab_tf.user_errors import UsageError

_NOTES = """\
Scores and times are read from the TensorBoard files of the model directories. The more often a run
is evaluated (evaluator_options.eval_interval), the more points its curve has. Minutes include the
evaluations and the preparation of the first step, not the time between a stop and a restart.
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  names = args.names.split(',') if args.names else [''] * len(args.model_dirs)
  if len(names) != len(args.model_dirs):
    raise UsageError(f'--names has {len(names)} names for {len(args.model_dirs)} model '
                     'directories; give one for each, separated by commas')
  arguments.check_output_file(args.output, 'PNG')
  from deeplab_tf.reports import run_comparison
  if len(args.model_dirs) > run_comparison.MOST_RUNS:
    raise UsageError(f'{len(args.model_dirs)} model directories are given; a picture shows at most '
                     f'{run_comparison.MOST_RUNS}')
  runs = [run_comparison.read(*each) for each in zip(args.model_dirs, names)]
  print(run_comparison.table(runs))
  run_comparison.draw(args.output, runs, over_steps=args.axis == 'steps')
  print(f'figure: {args.output}')


def _parser() -> arguments.Parser:
  parser = arguments.Parser('compare_runs.py', __doc__, _NOTES)
  parser.add_argument('model_dirs', nargs='+', metavar='MODEL_DIR', type=arguments.path,
                      help='model directories of trainer/train.py')
  parser.add_argument('--output', required=True, metavar='F', type=arguments.path,
                      help='PNG file to write')
  parser.add_argument('--names', metavar='A,B,...', help='names of the runs (default: those of the '
                      'folders)')
  parser.add_argument('--axis', choices=('minutes', 'steps'), default='minutes',
                      help='horizontal axis (default: minutes)')
  return parser


if __name__ == '__main__':
  sys.exit(main())
