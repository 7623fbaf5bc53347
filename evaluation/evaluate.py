"""Scores predictions on disk against a ground truth in COCO's formats.

  python evaluation/evaluate.py --task=panoptic --ground_truth=panoptic_val2017.json \
    --predictions=predictions/ --output=scores.json
"""

import argparse
import os
import sys
from typing import Any, Dict, Optional, Sequence, Tuple

from deeplab_tf import arguments, cli
from deeplab_tf.metrics import coco_panoptic_io

_FORMATS = """\
files:
  panoptic  both sides are a panoptic JSON (annotations with segments_info) and a folder of PNGs,
            id = R + 256 G + 65536 B. The scores equal those of panopticapi.
  semantic  the same files, segments merged by category: mean IoU over the classes that the
            ground truth has.
  instance  ground truth: an instance JSON; predictions: a results JSON, a list of image_id,
            category_id, segmentation, score. COCO's twelve figures for masks.
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  if args.boundary:
    raise cli.UsageError('--boundary is not available yet: boundary IoU is not implemented; '
                         'leave the flag out to score by mask IoU')
  predictions = _predictions_json(args.predictions)
  if args.output:
    _check_output(args.output)
  score = _instance if args.task == 'instance' else _maps
  result, text = score(args, predictions)
  print(text)
  if args.output:
    coco_panoptic_io.write_json(args.output, result)
    print(f'written to {args.output}')


def _parser() -> argparse.ArgumentParser:
  parser = arguments.Parser('evaluate', __doc__.splitlines()[0], _FORMATS)
  parser.add_argument('--task', required=True, choices=('panoptic', 'instance', 'semantic'))
  parser.add_argument('--ground_truth', required=True, metavar='JSON')
  parser.add_argument('--ground_truth_dir', metavar='DIR',
                      help="PNGs of the ground truth (default: the JSON's path without .json)")
  parser.add_argument('--predictions', required=True, metavar='JSON_OR_DIR',
                      help='a JSON, or a folder that holds predictions.json and the PNGs')
  parser.add_argument('--predictions_dir', metavar='DIR',
                      help="PNGs of the predictions (default: the JSON's path without .json)")
  parser.add_argument('--boundary', action='store_true', help='boundary scores; not available yet')
  parser.add_argument('--per_class', action='store_true', help='print a line per class too')
  parser.add_argument('--output', metavar='JSON', help='write the scores, in [0, 1], to this file')
  return parser


def _predictions_json(path: str) -> str:
  if not os.path.isdir(path):
    return path
  inside = os.path.join(path, 'predictions.json')
  if not os.path.isfile(inside):
    raise FileNotFoundError(f'{inside}: there is no such file; --predictions takes a JSON or a '
                            'folder that holds predictions.json')
  return inside


def _check_output(path: str) -> None:
  """Fails before the work, not after it."""
  folder = os.path.dirname(os.path.abspath(path))
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'--output={path}: there is no folder {folder}; make it first')
  if os.path.isdir(path):
    raise cli.UsageError(f'--output={path} is a folder; name a JSON file')


def _maps(args: argparse.Namespace, predictions: str) -> Tuple[Dict[str, Any], str]:
  """Scores panoptic PNGs, as panoptic or as semantic maps."""
  import tqdm

  from deeplab_tf.metrics import coco_panoptic, panoptic_quality
  panoptic = args.task == 'panoptic'
  function = coco_panoptic.panoptic_score if panoptic else coco_panoptic.semantic_score
  with tqdm.tqdm(unit=' images', disable=not sys.stderr.isatty(), leave=False) as bar:
    score = function(args.ground_truth, predictions, args.ground_truth_dir, args.predictions_dir,
                     bar.update)
  for warning in score.warnings:
    print(f'warning: {warning}', file=sys.stderr)
  result = score.metric.result()
  if panoptic:
    names = score.class_names if args.per_class else None
    return result, panoptic_quality.format_result(result, names)
  lines = [f'mIoU {_per_cent(result["miou"])}']
  if args.per_class:
    lines += [f'{score.class_names[category][:23]:<24}{_per_cent(value)}'
              for category, value in result['per_class'].items()]
  return result, '\n'.join(lines)


def _instance(args: argparse.Namespace, predictions: str) -> Tuple[Dict[str, Any], str]:
  from deeplab_tf.metrics import average_precision
  if args.ground_truth_dir or args.predictions_dir:
    raise cli.UsageError('--ground_truth_dir and --predictions_dir belong to the tasks panoptic '
                         'and semantic; the masks of --task=instance are in the JSONs')
  score = average_precision.instance_score(args.ground_truth, predictions)
  return score.figures, average_precision.format_result(score, args.per_class)


def _per_cent(value: Optional[float]) -> str:
  return '   n/a' if value is None else f'{100 * value:6.1f}'


if __name__ == '__main__':
  sys.exit(main())
