"""Converts a checkpoint of another library to one of this library.

  python trainer/convert_checkpoint.py --source=deeplab2 --input=downloaded/ckpt-100000 \\
      --config_file=configs/coco/max_deeplab/max_deeplab_s.textproto --output=converted/ckpt-0

Use the result as model_options.initial_checkpoint, or in trainer/export.py and
evaluation/predict.py. To convert a backbone that was trained on ImageNet (a DeepLab2 or Model
Garden encoder), use a classification config, e.g.
configs/imagenet/max_deeplab_s_backbone.textproto, and set the result as initial_checkpoint of
another config. PyTorch files (--source=axial_deeplab) are read without PyTorch, with
configs/imagenet/axial26_s.textproto.
"""

import os
import sys
from typing import Optional, Sequence

from deeplab_tf import arguments, cli
from deeplab_tf.formats import atomic_file
from deeplab_tf.user_errors import UsageError

SOURCES = ('deeplab2', 'mask2former', 'huggingface', 'axial_deeplab')


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  from deeplab_tf import config as config_lib
  config = config_lib.load_config(args.config_file, args.override)
  reason = atomic_file.why_not_writable(os.path.dirname(os.path.abspath(args.output)))
  if reason:
    raise UsageError(f'--output={args.output} cannot be written: {reason}; give another prefix')
  from deeplab_tf import models
  from deeplab_tf.checkpoints import convert
  if args.source not in convert.READERS:
    raise UsageError(f'--source={args.source} is not available yet: there is '
                     f'{", ".join(sorted(convert.READERS))}')
  model = models.build_model(config)
  converted = convert.convert(model, args.source, args.input, args.output)
  print(f'converted {args.input} to {converted.prefix}', *converted.account.lines(), sep='\n')


def _parser() -> arguments.Parser:
  parser = arguments.Parser('convert_checkpoint.py', __doc__)
  parser.add_config()
  parser.add_argument('--source', required=True, choices=SOURCES,
                      help='the library that wrote the checkpoint')
  parser.add_argument('--input', required=True, metavar='P', type=arguments.path,
                      help='the checkpoint: a prefix, a folder (its latest one), or a PyTorch file')
  parser.add_argument('--output', required=True, metavar='C', type=arguments.path,
                      help='the prefix to write; if it is an existing folder, ckpt-0 in it')
  return parser


if __name__ == '__main__':
  sys.exit(main())
