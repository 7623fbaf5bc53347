r"""Converts predictions to the zip file for the test server of a benchmark.

  python evaluation/predict.py --saved_model=exported --output_dir=predictions test/
  python evaluation/submission.py --benchmark=coco_panoptic --predictions=predictions \
    --images=annotations/image_info_test-dev2017.json --output=submission.zip
"""

import argparse
import os
import sys
from typing import Optional, Sequence

from deeplab_tf import arguments, cli
from deeplab_tf.user_errors import MissingFileError

_INPUT = """
predictions (output of evaluation/predict.py):
  panoptic  --task=panoptic: for all benchmarks but coco_instance
  instance  --task=instance, a JSON of results: for coco_instance and cityscapes_instance
  semantic  --task=semantic, PNGs of the data set's class ids, which become those of the server: for
            cityscapes_semantic and ade20k_semantic
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  from deeplab_tf.scoring import submission
  args = _parser(submission.BENCHMARKS).parse_args(argv)
  import tqdm
  if not os.path.isdir(os.path.dirname(os.path.abspath(args.output))):
    raise MissingFileError(f'--output={args.output}: its folder does not exist; create it first')
  with tqdm.tqdm(unit=' images', disable=None, leave=False) as bar:
    written = submission.write(args.output, args.benchmark, args.predictions, images=args.images,
                               method=args.method, progress=bar.update,
                               predictions_dir=args.predictions_dir)
  for warning in written.warnings:
    print(f'warning: {warning}', file=sys.stderr)
  left_out = f' ({written.left_out} others are left out)' if written.left_out else ''
  size = os.path.getsize(args.output) / 2**20
  print(f'{written.images} images{left_out} written to {args.output}, {size:.1f} MB')


def _parser(benchmarks) -> argparse.ArgumentParser:
  kinds = '\n'.join(f'  {name:<20} {benchmark.help}' for name, benchmark in benchmarks.items())
  parser = arguments.Parser('submission.py', __doc__, f'content of the zip:\n{kinds}\n{_INPUT}')
  parser.add_argument('--benchmark', required=True, choices=tuple(benchmarks))
  parser.add_argument('--predictions', required=True, metavar='JSON_OR_DIR',
                      help='output folder of evaluation/predict.py, a panoptic JSON, or a JSON of '
                      'instance results')
  parser.add_argument('--predictions_dir', metavar='DIR',
                      help="PNGs of the predictions (default: the JSON's path without .json)")
  parser.add_argument('--images', metavar='JSON_OR_DIR',
                      help='images of the benchmark, which must all have a prediction: a JSON with '
                      '"images", e.g. image_info_test-dev2017.json, or the folder of the images')
  parser.add_argument('--method', default='deeplab_tf', metavar='NAME',
                      help='name of the method, part of COCO\'s file names (%(default)s)')
  parser.add_argument('--output', required=True, metavar='ZIP', help='file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
