"""Counts a model's parameters and multiply-adds by part, without running it.

  python evaluation/summary.py --config_file=configs/coco/max_deeplab/max_deeplab_s.textproto
"""

import json
import sys
from typing import Optional, Sequence

from deeplab_tf import arguments, cli

_NOTES = """\
columns:
  parameters  number of all parameters
  trainable   number of trainable parameters; the rest are moving averages of batch norms
  inference   trainable parameters without parts that only training uses, as papers report it
  madds       multiply-adds of one image at inference: convolutions, matrix products and einsums;
              without normalization, activations, interpolation, the parts that only training
              uses, and post-processing
For Panoptic-DeepLab and Axial-DeepLab, the last line, and "projected_parameters" in the JSON, is
another count of the parameters: the backbone, and the decoder layers that project its features,
without their batch norms. For DeepLab2's Axial-DeepLabs, the paper reports this number.
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  from deeplab_tf import config as config_lib
  config = config_lib.load_config(args.config_file, args.override)
  from deeplab_tf import profiling
  summary = profiling.summarize(config, args.input_size)
  if args.format == 'json':
    result = {**summary.total._asdict(), 'input_size': list(summary.input_size),
              'by_part': {name: part._asdict() for name, part in summary.by_part.items()}}
    if summary.projected_parameters is not None:
      result['projected_parameters'] = summary.projected_parameters
    print(json.dumps(result, indent=1))
  else:
    print(_table(summary))


def _parser() -> arguments.Parser:
  parser = arguments.Parser('summary.py', __doc__, _NOTES)
  parser.add_config()
  parser.add_argument('--input_size', type=arguments.size, metavar='HxW',
                      help='e.g. 641x641 (default: eval_dataset_options.crop_size)')
  parser.add_argument('--format', choices=('table', 'json'), default='table')
  return parser


def _table(summary) -> str:
  titles = ('parameters', 'trainable', 'inference', 'madds')
  lines = [f'{"":<20}' + ''.join(f'{title:>14}' for title in titles)]
  for name, part in [*summary.by_part.items(), ('total', summary.total)]:
    numbers = ''.join(f'{number:>14,}' for number in part[:3])
    lines.append(f'{name:<20}{numbers}{part.madds / 1e9:>12.3f} G')
  total, (height, width) = summary.total, summary.input_size
  lines.append(f'{total.inference_parameters / 1e6:.1f} M parameters and '
               f'{total.madds / 1e9:.1f} G multiply-adds at {height}x{width}')
  if summary.projected_parameters is not None:
    lines.append(f'{summary.projected_parameters / 1e6:.2f} M of them in the backbone and the '
                 "decoders' projections of its features")
  return '\n'.join(lines)


if __name__ == '__main__':
  sys.exit(main())
