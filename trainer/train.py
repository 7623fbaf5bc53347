"""Trains and evaluates a model.

  python trainer/train.py --config_file=configs/shapes/max_deeplab_s.textproto --model_dir=runs/a \
      --mode=train_and_eval

Rerun the same command to resume from the last checkpoint in --model_dir.
"""

import argparse
import os
import sys
from typing import Optional, Sequence

from deeplab_tf import arguments, cli

MODES = ('train', 'eval', 'train_and_eval', 'continuous_eval')


def _parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
  parser = arguments.Parser('train', __doc__)
  parser.add_argument('--config_file', required=True, metavar='F', type=arguments.path,
                      help='the experiment, a textproto; see configs/')
  parser.add_argument('--model_dir', metavar='D', type=arguments.path,
                      help='folder of checkpoints, TensorBoard logs and scores')
  parser.add_argument('--mode', choices=MODES, default='train',
                      help='train_and_eval evaluates every evaluator_options.eval_interval steps; '
                      'continuous_eval waits for checkpoints of another process '
                      '(default: %(default)s)')
  parser.add_argument('--num_gpus', type=int, metavar='N',
                      help='number of GPUs, which share each batch; 0 for the CPU (default: all)')
  parser.add_argument('--tpu', metavar='NAME', help="name or address of a TPU, 'local' on its VM")
  parser.add_argument('--override', action='append', default=[], metavar='TEXTPROTO',
                      help='options merged over the file, e.g. '
                      "'trainer_options { seed: 1 }'; may be given several times, the last wins")
  parser.add_argument('--dry_run', action='store_true',
                      help='print layers, shapes, parameters, memory and checks of the data '
                      'without training')
  flags = parser.parse_args(argv)
  if not flags.model_dir and not flags.dry_run:
    parser.error('--model_dir is needed: a folder for checkpoints, logs and scores')
  return flags


def _run(argv: Optional[Sequence[str]]) -> None:
  flags = _parse(argv)
  # The config is checked before TensorFlow is imported, which takes seconds.
  from deeplab_tf import config as config_lib
  config = config_lib.load_config(flags.config_file, flags.override)
  from deeplab_tf.training import distribution
  strategy = distribution.build(flags.num_gpus, flags.tpu)
  if flags.dry_run:
    from deeplab_tf.training import dry_run
    dry_run.run(config, strategy)
    return
  from deeplab_tf.training import runs, signals
  with signals.StopRequest() as stop_request:
    try:
      with distribution.watching_workers(strategy):
        runs.Run(config, flags.model_dir, flags.mode, strategy, stop_request).run()
    except signals.Stopped:
      sys.exit(stop_request.exit_code)


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  try:
    code = cli.run(_run, argv)
  except SystemExit as error:
    code = error.code
  if 'TF_CONFIG' in os.environ:
    # TensorFlow's connections to other workers would keep the process from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


if __name__ == '__main__':
  sys.exit(main())
