"""Measures time and memory of a model, its parts, its training step, input data or scoring.

  python evaluation/benchmark.py --config_file=F --what=inference --input_size=641x641

All benchmarks except input_pipeline use synthetic data, so they need no dataset and no checkpoint.
--what=evaluation needs no config.
"""

import json
import sys
from typing import Optional, Sequence

from deeplab_tf import arguments, cli
from deeplab_tf.user_errors import UsageError

_NOTES = """\
what:
  inference       uint8 image to panoptic map, as exported, with random weights; the class
                  (or center) predictions are replaced by synthetic ones, some of them confident
  train_step      forward pass, losses, matching, backward pass and update, as in the trainer
  postprocess     post-processing only
  matching        128 queries and 100 ground truth masks, by both solvers; needs no size
  attention       each kind of axial or local attention in the network, one layer along one axis:
                  inference, and a train step (gradients of a sum of squares with respect to the
                  weights and the input), each in a separate process
  input_pipeline  --repeats training batches from train_dataset_options; the same without
                  augmentation (fixed size, no randomness); each stage separately, in processor
                  time over all cores
  evaluation      panoptic quality and boundary panoptic quality of --repeats pairs of PNGs, at
                  least 20, with 60 segments each, from files, in one process; seconds per pair
output:
  first      seconds from the start of building the model to the first result
  median     seconds per call after the first one
  processor  median processor time over all cores, which other programs affect less
  peak       largest resident memory of this process, including TensorFlow
"""
_WHAT = ('inference', 'train_step', 'postprocess', 'attention', 'matching',
         'input_pipeline', 'evaluation')
# Size of the maps and minimum number of pairs for the measurement of scoring.
_MAP_SIZE, _LEAST_PAIRS = (1024, 2048), 20


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  from deeplab_tf.benchmark.measuring import MeasureOptions
  if args.what == 'evaluation':
    from deeplab_tf.benchmark import scoring_speed
    options = MeasureOptions(args.input_size or _MAP_SIZE, 1, max(args.repeats, _LEAST_PAIRS))
    _report(args, options, scoring_speed.measure(options))
    return
  if args.config_file is None:
    raise UsageError(f'--what={args.what} needs a --config_file')
  from deeplab_tf import config as config_lib
  config = config_lib.load_config(args.config_file, args.override)
  training = args.what in ('train_step', 'input_pipeline')
  options = MeasureOptions(
      *_sizes(config.train_dataset_options if training else config.eval_dataset_options, args),
      args.repeats, args.jit_compile)
  if args.what in ('inference', 'postprocess'):
    config_lib.require_segmentation(config, f'--what={args.what}')
  _report(args, options, _measurement(args.what)(config, options))


def _measurement(what: str):
  """Returns the function that measures; this imports TensorFlow."""
  from deeplab_tf.benchmark import attention, input_pipeline, network, solvers
  return {'inference': network.inference, 'train_step': network.train_step,
          'postprocess': network.postprocess, 'attention': attention.measure,
          'matching': solvers.measure, 'input_pipeline': input_pipeline.measure}[what]


def _report(args, options, results: dict[str, dict[str, float]]) -> None:
  """Prints the times, with the data that is needed to compare them."""
  from deeplab_tf.benchmark import measuring
  report = {'what': args.what, 'results': results, 'peak_gb': measuring.peak_gb(),
            'machine': measuring.machine(with_tensorflow=args.what != 'evaluation'),
            'repeats': options.repeats, 'jit_compile': options.jit_compile}
  if args.what != 'matching':
    report.update(input_size=list(options.input_size), batch_size=options.batch_size)
  print(json.dumps(report, indent=1) if args.format == 'json' else measuring.table(report))


def _parser() -> arguments.Parser:
  parser = arguments.Parser('benchmark.py', __doc__, _NOTES)
  parser.add_config(required=False)
  parser.add_argument('--what', choices=_WHAT, default='inference')
  parser.add_argument('--input_size', type=arguments.size, metavar='HxW',
                      help='e.g. 641x641 (default: the crop size of the config)')
  parser.add_argument('--batch_size', type=arguments.positive, metavar='N',
                      help="default: 1, or for input_pipeline that of the config")
  parser.add_argument('--repeats', type=arguments.positive, default=5, metavar='N',
                      help='number of calls after the first (default: %(default)s)')
  parser.add_argument('--jit_compile', action='store_true',
                      help='compile the network, or the training step, with XLA')
  parser.add_argument('--format', choices=('table', 'json'), default='table')
  return parser


def _sizes(data, args) -> tuple[tuple[int, ...], int]:
  """Writes the flags into the data options; returns the size of images and of batches."""
  # By default the input pipeline is measured with the batch size of the config.
  batch_size = args.batch_size or (data.batch_size if args.what == 'input_pipeline' else 1)
  if args.input_size is None:
    if len(data.crop_size) != 2 and args.what != 'matching':
      raise UsageError('the config has no crop_size: give --input_size=HxW')
  elif args.what != 'matching':
    data.crop_size[:] = args.input_size
    data.ClearField('min_resize_value')
    data.ClearField('max_resize_value')
    data.ClearField('resize_rule')
    data.ClearField('size_divisor')
  data.batch_size = batch_size
  return tuple(args.input_size or data.crop_size), batch_size


if __name__ == '__main__':
  sys.exit(main())
