"""Segments images and writes overlays and predictions in COCO's formats or as class PNGs.

  python evaluation/predict.py --saved_model=exported --output_dir=predictions photo.jpg folder/
"""

import argparse
import sys
from typing import Optional, Sequence

from deeplab_tf import arguments, cli
from deeplab_tf.user_errors import DataError, UsageError

# Maximum number of unreadable images named in the error.
_LISTED = 5
_NOTES = """\
output (evaluation/evaluate.py --predictions takes the folder):
  NAME_overlay.png  the image with colors, outlines and class names
  panoptic          NAME.png: segment ids in COCO's encoding, id = R + 256 G + 65536 B; 0 is
                    unlabeled. predictions.json: COCO panoptic format
  instance          predictions.json: a COCO results list of image_id, category_id, segmentation
                    (compressed RLE), bbox and score. Overlays show scores from 0.5 on
  semantic          NAME.png: one channel with the class ids of the data set, as in its label PNGs
                    (category ids for coco_format and label_folders). predictions.json: the images
                    and the meaning of the values
NAME is the path of the image below the given folder. The id of an image is its file name without
extension (for Cityscapes, also without _leftImg8bit), as a number if possible (000000000139.jpg:
139). Images that would have the same id, such as 007.png and 7.jpg, or a/1.jpg and b/1.jpg, have
their whole names as ids. With --ground_truth, ids are taken from that file. Images are rotated
upright according to their EXIF data. An image that cannot be read is skipped, and the exit code
is 2.
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  _check(args)
  config = _config(args)
  from deeplab_tf.scoring import predicted_images
  inputs = predicted_images.name(predicted_images.find(args.images, args.output_dir),
                                 args.output_dir, args.ground_truth)
  segmenter = _segmenter(args, config)
  import tqdm

  from deeplab_tf.formats import rgb_images
  from deeplab_tf.scoring.prediction_folder import PredictionFolder
  arguments.make_output_dir(args.output_dir)
  written, unreadable = PredictionFolder(args.output_dir, segmenter.dataset_info), []
  for entry in tqdm.tqdm(inputs, unit=' images', disable=None):
    try:
      pixels = rgb_images.read(entry.path)
    except DataError as error:
      unreadable.append(str(error))
      continue
    written.add(entry, segmenter(pixels))
  written.finish()
  print(f'{len(written)} images segmented, written to {args.output_dir}')
  if unreadable:
    more = len(unreadable) - _LISTED
    raise UsageError(f'{len(unreadable)} of {len(inputs)} images were left out: '
                     + '; '.join(unreadable[:_LISTED])
                     + (f'; and {more} more' if more > 0 else ''))


# --- Flags ------------------------------------------------------------------------------------


def _parser() -> arguments.Parser:
  parser = arguments.Parser('predict.py', __doc__, _NOTES)
  parser.add_argument('images', nargs='+', metavar='IMAGE_OR_FOLDER',
                      help='image files, and folders that are searched recursively for .jpg, .jpeg '
                      'and .png files, except hidden files and earlier predictions')
  parser.add_argument('--saved_model', metavar='D', help='folder that trainer/export.py wrote')
  parser.add_config(required=False)
  parser.add_argument('--checkpoint', metavar='C',
                      help='with --config_file: a prefix such as runs/a/ckpt-1000, or a folder '
                      'with its latest checkpoint')
  parser.add_output_dir()
  parser.add_argument('--ground_truth', metavar='JSON',
                      help='COCO JSON from which image ids are taken, by file name (default: see '
                      'below)')
  parser.add_argument('--task', choices=('panoptic', 'instance', 'semantic'),
                      help='with --config_file: the task to do with a panoptic mask2former '
                      '(default: that of the config)')
  parser.add_argument('--eval_scales', type=_scales, metavar='S,S,...',
                      help='average predictions over these scales of the input, e.g. 0.75,1,1.25; '
                      'requires --config_file and a panoptic_deeplab model, or a mask2former model '
                      'for task SEMANTIC')
  parser.add_argument('--add_flipped_images', action='store_true',
                      help='also average predictions over mirrored images; see --eval_scales')
  return parser


def _scales(text: str) -> list[float]:
  try:
    return [float(scale) for scale in text.split(',')]
  except ValueError:
    raise argparse.ArgumentTypeError(f'"{text}" is not a list of scales: give numbers separated '
                                     'by commas, e.g. 0.75,1,1.25') from None


def _check(args) -> None:
  from_checkpoint = args.config_file is not None or args.checkpoint is not None
  if (args.saved_model is None) != from_checkpoint:
    raise UsageError('give either --saved_model, or --config_file and --checkpoint')
  if from_checkpoint and (args.config_file is None or args.checkpoint is None):
    missing = '--checkpoint' if args.checkpoint is None else '--config_file'
    raise UsageError(f'{missing} is missing: --config_file and --checkpoint go together')
  if args.saved_model is not None and args.override:
    raise UsageError('--override changes a config, and a SavedModel is fixed: use it with '
                     '--config_file, or export again')
  if args.saved_model is not None and args.task:
    raise UsageError('--task is for --config_file, and a SavedModel does one task: export it with '
                     f'--task={args.task}')
  if args.saved_model is not None and (args.eval_scales or args.add_flipped_images):
    raise UsageError('--eval_scales and --add_flipped_images are for --config_file, and a '
                     'SavedModel is fixed: export it with evaluator_options of these names')
  arguments.check_output_dir(args.output_dir)


def _config(args):
  """Returns the config, or None with a SavedModel."""
  if args.saved_model is not None:
    return None
  from deeplab_tf import config as config_lib
  config = config_lib.load_config(args.config_file, [*args.override, *_averaging(args)])
  config_lib.require_segmentation(config, 'prediction')
  return config


def _averaging(args) -> list[str]:
  """Returns the flags of test-time augmentation as overrides."""
  fields = []
  if args.eval_scales:
    fields.append(f'eval_scales: {args.eval_scales}')
  if args.add_flipped_images:
    fields.append('add_flipped_images: true')
  return [f'evaluator_options {{ {field} }}' for field in fields]


def _segmenter(args, config):
  from deeplab_tf.segmenter import Segmenter
  if config is None:
    return Segmenter.from_saved_model(args.saved_model)
  return Segmenter.from_checkpoint(config, args.checkpoint, args.task)


if __name__ == '__main__':
  sys.exit(main())
