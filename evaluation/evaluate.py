"""Scores predictions on disk against a ground truth in COCO's formats.

  python evaluation/evaluate.py --task=panoptic --ground_truth=panoptic_val2017.json \
    --predictions=predictions/ --output=scores.json
"""

import argparse
import os
import sys
from typing import Any, Optional, Sequence

from deeplab_tf import arguments, cli
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.scoring import workers
from deeplab_tf.user_errors import UsageError

_FORMATS = """\
files:
  panoptic  ground truth and predictions are each a panoptic JSON (annotations with segments_info)
            and a folder of PNGs, id = R + 256 G + 65536 B. The scores equal those of panopticapi;
            with --boundary those of boundary-iou-api, with --definition=deeplab2 those of
            DeepLab2's metric.
  semantic  the same files, with segments merged by category; or, with --num_classes, a folder of
            single-channel PNGs whose values are class ids. Then the predictions are such a folder
            with the same file names (NAME_overlay.png beside NAME.png is left out), or the panoptic
            output of predict.py, whose category ids are the class ids. mIoU is the mean over the
            classes in the ground truth.
  instance  ground truth: an instance JSON; predictions: a results JSON, a list of image_id,
            category_id, segmentation, score, or the folder with predictions.json that predict.py
            writes. The scores are COCO's twelve for masks, or with --boundary for the smaller of
            mask IoU and boundary IoU.

report (--report=DIR writes DIR/index.html and DIR/images.csv; --images=DIR draws over the images):
  panoptic  PQ by class and size of segment, confusion of classes, worst and best images
  semantic  all scores, IoU by class, confusion of classes by pixels, worst and best images
  instance  AP by IoU threshold, class and size, precision by recall, kinds of errors, the false
            positives with the highest scores, the largest false negatives, worst and best images
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  _check_flags(args)
  if args.output:
    arguments.check_output_file(args.output, 'JSON')
  from deeplab_tf.reports.evaluation import file_scores
  with _progress() as bar:
    scores = file_scores.score(args.task, _options(args), bar.update)
  for warning in scores.warnings:
    print(f'warning: {warning}', file=sys.stderr)
  print(scores.text)
  if args.output:
    coco_panoptic.write_json(args.output, scores.figures)
    print(f'written to {args.output}')


def _parser() -> argparse.ArgumentParser:
  parser = arguments.Parser('evaluate', __doc__.splitlines()[0], _FORMATS)
  parser.add_argument('--task', required=True, choices=('panoptic', 'instance', 'semantic'))
  parser.add_argument('--ground_truth', required=True, metavar='JSON_OR_DIR')
  parser.add_argument('--ground_truth_dir', metavar='DIR',
                      help="PNGs of the ground truth (default: the JSON's path without .json)")
  parser.add_argument('--predictions', required=True, metavar='JSON_OR_DIR',
                      help='a JSON, or a folder with predictions.json and the PNGs')
  parser.add_argument('--predictions_dir', metavar='DIR',
                      help="PNGs of the predictions (default: the JSON's path without .json)")
  parser.add_argument('--boundary', action='store_true',
                      help='use the smaller of mask IoU and boundary IoU (panoptic, instance)')
  parser.add_argument('--definition', choices=('panopticapi', 'deeplab2'), default='panopticapi',
                      help='definition of panoptic quality (default: %(default)s)')
  parser.add_argument('--num_classes', type=arguments.positive, metavar='N',
                      help='--ground_truth is a folder of semantic PNGs with the class ids 0 to '
                      'N - 1, and --predictions is another one, or the output of predict.py')
  parser.add_argument('--ignore_label', type=int, metavar='ID',
                      help='value of unlabeled pixels in semantic PNGs (default: 255)')
  parser.add_argument('--workers', type=arguments.positive, default=workers.default(), metavar='N',
                      help='number of processes; scores do not depend on it (default: %(default)s, '
                      'one per core, at most 8)')
  parser.add_argument('--per_class', action='store_true', help='also print a line per class')
  parser.add_argument('--output', metavar='JSON', help='write the scores, in [0, 1], to this file')
  parser.add_argument('--report', metavar='DIR',
                      help='write an HTML report to this folder: scores by class, size, confusion '
                      'and image, with the worst and the best images')
  parser.add_argument('--images', metavar='DIR',
                      help='images for --report, found by name in this folder and its subfolders')
  return parser


def _check_flags(args: argparse.Namespace) -> None:
  """Raises a UsageError for flags of another task."""
  if args.task == 'instance' and (args.ground_truth_dir or args.predictions_dir):
    raise UsageError('--ground_truth_dir and --predictions_dir belong to the tasks panoptic '
                     'and semantic; the masks of --task=instance are in the JSONs')
  if args.task == 'semantic' and args.boundary:
    raise UsageError('--boundary belongs to the tasks panoptic and instance')
  if args.definition != 'panopticapi' and (args.task != 'panoptic' or args.boundary):
    raise UsageError(f'--definition={args.definition} belongs to --task=panoptic, without '
                     '--boundary')
  if args.task != 'semantic' and args.num_classes is not None:
    raise UsageError('--num_classes belongs to --task=semantic')
  if args.num_classes is None and args.ignore_label is not None:
    raise UsageError('--ignore_label belongs to semantic PNGs: give --num_classes too')
  if args.num_classes is not None and (args.ground_truth_dir or args.predictions_dir):
    raise UsageError('with --num_classes, --ground_truth and --predictions are the folders of '
                     'PNGs; leave out --ground_truth_dir and --predictions_dir')
  if args.num_classes is None and os.path.isdir(args.ground_truth):
    raise UsageError(f'--ground_truth={args.ground_truth} is a folder; give a JSON, or for '
                     'folders of semantic PNGs --task=semantic and --num_classes')
  if args.report and args.definition != 'panopticapi':
    raise UsageError('--report belongs to --definition=panopticapi')
  if args.images and not args.report:
    raise UsageError('--images belongs to --report')
  if args.report and os.path.exists(args.report) and not os.path.isdir(args.report):
    raise UsageError(f'--report={args.report} is a file; name a folder')


def _options(args: argparse.Namespace) -> Any:
  from deeplab_tf.reports.evaluation import file_scores
  return file_scores.ScoreOptions(**{
      name: getattr(args, name) for name in file_scores.ScoreOptions._fields})


def _progress() -> Any:
  import tqdm
  return tqdm.tqdm(unit=' images', disable=not sys.stderr.isatty(), leave=False)


if __name__ == '__main__':
  sys.exit(main())
