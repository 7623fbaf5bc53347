"""Scores a trained model at input sizes far from those used in training (scale stress test).

  python evaluation/scale_stress.py --config_file=runs/a/config.textproto --checkpoint=runs/a \\
    --output_dir=stress/a --compare=stress/b
"""

import argparse
import math
import os
import sys
from typing import Iterable, Optional, Sequence

from deeplab_tf import arguments, cli
from deeplab_tf.user_errors import UsageError

_NOTES = """\
At each ratio, the images of eval_dataset_options and the crop_size to which they are padded are
that many times as large as in evaluation. Sides are int((side - 1) * ratio + 1), so that odd ones
stay odd. thing_area_limit and stuff_area_limit, which are in pixels of the network's input, are
multiplied by ratio**2; all other options of post-processing, and the weights, are unchanged.
Predictions are scored at the size of the image files.

output:
  scale_stress.json  PQ, SQ and RQ of all, things and stuff, size and seconds per image, by ratio
  scale_stress.png   PQ of all, things and stuff by ratio; with --compare also of the other models,
                     and (PQ - other PQ) / other PQ                 (Axial-DeepLab: figure 4)
The JSON is written after each ratio: rerun the same command to resume, or use more --ratios to add
them.
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  _check(args)
  from deeplab_tf import config as config_lib
  config = config_lib.load_config(args.config_file, args.override)
  from deeplab_tf.checkpoints.restore import find_checkpoint
  from deeplab_tf.reports.scale_stress import scale_results, scale_stress
  others = [scale_results.read(path) for path in args.compare]
  name = os.path.splitext(os.path.basename(args.config_file))[0]
  stress = scale_stress.ScaleStress(config, name, find_checkpoint(args.checkpoint),
                                    args.num_images)
  path = os.path.join(args.output_dir, scale_results.FILE)
  stress.resume(path)
  ratios = args.ratios or scale_stress.RATIOS
  stress.check_ratios(ratios)
  for where, other in zip(args.compare, others):
    stress.check_comparable(other, ratios, f'--compare={where}')
  there = sorted(set(ratios) & set(stress.found.ratios))
  if there:
    print(f'{path} already has {", ".join(f"{ratio:g}" for ratio in there)}; these ratios are not '
          'measured again')
  arguments.make_output_dir(args.output_dir)
  stress.run(ratios, path, _bar)
  print(scale_results.format_test(stress.found))
  names = scale_results.names([stress.found, *others])
  for other, name in zip(others, names[1:]):
    print(f'\n{scale_results.format_improvement(stress.found, other, name)}')
  figure = os.path.join(args.output_dir, 'scale_stress.png')
  _draw(figure, [stress.found, *others], names)
  print(f'figure: {figure}')


# --- Flags ------------------------------------------------------------------------------------


def _parser() -> arguments.Parser:
  parser = arguments.Parser('scale_stress.py', __doc__, _NOTES)
  parser.add_config()
  parser.add_checkpoint()
  parser.add_output_dir()
  parser.add_argument('--ratios', type=_ratios, metavar='R,R,...',
                      help="ratios of the network's input size to its size in evaluation, e.g. "
                      '0.25,0.5,1,2,4 (default: nine ratios from 0.25 to 4)')
  parser.add_argument('--num_images', type=arguments.positive, metavar='N',
                      help='score the first N images of the evaluation dataset (default: as in '
                      'evaluation, all images unless evaluator_options.eval_steps is set)')
  parser.add_argument('--compare', action='append', default=[], metavar='DIR_OR_JSON',
                      help='stress test of another model on the same images: show both, and the '
                      'relative improvement; may be given several times')
  return parser


def _ratios(text: str) -> list[float]:
  try:
    ratios = [float(ratio) for ratio in text.split(',')]
  except ValueError:
    ratios = []
  if not ratios or not all(0 < ratio < math.inf for ratio in ratios):
    raise argparse.ArgumentTypeError(f'"{text}" is not a list of ratios: give positive numbers '
                                     'separated by commas, e.g. 0.25,0.5,1,2,4')
  return ratios


def _check(args) -> None:
  from deeplab_tf.reports.scale_stress import scale_figure
  arguments.check_output_dir(args.output_dir)
  if len(args.compare) >= scale_figure.MOST_MODELS:
    raise UsageError(f'--compare: {len(args.compare)} are given; at most '
                     f'{scale_figure.MOST_MODELS - 1} can be distinguished in one figure')


# --- Output -----------------------------------------------------------------------------------


def _bar(samples: Iterable, total: Optional[int], ratio: float, size: Sequence[int]) -> Iterable:
  import tqdm
  return tqdm.tqdm(samples, total=total, unit=' images', disable=None,
                   desc=f'ratio {ratio:g}, {size[0]}x{size[1]}')


def _draw(path: str, tests: Sequence, names: Sequence[str]) -> None:
  """Draws the figure of a test and the tests that it is compared with."""
  from deeplab_tf.reports.scale_stress import scale_figure, scale_results
  groups = scale_results.GROUPS
  quality = [scale_figure.Curves(name, {group: test.pq(group) for group in groups})
             for name, test in zip(names, tests)]
  gains = [scale_figure.Curves(name, {
      group: scale_results.improvement(tests[0], other, group) for group in groups})
           for name, other in zip(names[1:], tests[1:])]
  scale_figure.scale_stress(path, quality, gains)


if __name__ == '__main__':
  sys.exit(main())
