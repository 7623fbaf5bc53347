"""Segments images and writes what it found as pictures and as COCO panoptic predictions.

  python evaluation/predict.py --saved_model=exported --output_dir=predictions photo.jpg folder/
"""

import argparse
import os
import sys
from typing import Any, NamedTuple, Optional, Sequence, Union

from deeplab_tf import arguments, cli
from deeplab_tf.user_errors import DataError, MissingFileError, UsageError

_EXTENSIONS = ('.jpg', '.jpeg', '.png')
# Unreadable images that the last line names.
_LISTED = 5
_NOTES = """\
output:
  NAME.png          segment ids in COCO's encoding, id = R + 256 G + 65536 B; 0 is unlabelled
  NAME_overlay.png  the image with colours, outlines and class names
  predictions.json  COCO panoptic format; evaluation/evaluate.py --predictions takes the folder
Images are turned upright as their EXIF data say. An image that cannot be read is left out: the
others are done, and the exit code is 2.
"""


class _Input(NamedTuple):
  """An image to segment: its file, the stem of the output files, and its id."""
  path: str
  name: str
  image_id: Union[int, str]


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  _check(args)
  config = _config(args)
  inputs = _name(_find_images(args.images, args.output_dir), _ground_truth_ids(args.ground_truth))
  segmenter = _segmenter(args, config)
  import tqdm

  from deeplab_tf.data import photographs
  from deeplab_tf.metrics import coco_panoptic_io
  arguments.make_output_dir(args.output_dir)
  images, annotations, unreadable = [], [], []
  for entry in tqdm.tqdm(inputs, unit=' images', disable=None):
    try:
      pixels = photographs.read(entry.path)
    except DataError as error:
      unreadable.append(str(error))
      continue
    result = segmenter(pixels)
    images.append({'id': entry.image_id, 'file_name': os.path.basename(entry.path),
                   'height': pixels.shape[0], 'width': pixels.shape[1]})
    annotations.append(_write(result, entry, args.output_dir))
  categories = [{'id': c.category_id, 'name': c.name, 'isthing': int(c.isthing),
                 'color': list(c.color)} for c in segmenter.dataset_info.categories]
  path = os.path.join(args.output_dir, 'predictions.json')
  coco_panoptic_io.write_json(path, {'images': images, 'annotations': annotations,
                                     'categories': categories})
  print(f'{len(images)} images segmented, written to {args.output_dir}')
  if unreadable:
    more = len(unreadable) - _LISTED
    raise UsageError(f'{len(unreadable)} of {len(inputs)} images were left out: '
                     + '; '.join(unreadable[:_LISTED])
                     + (f'; and {more} more' if more > 0 else ''))


# --- Flags ------------------------------------------------------------------------------------


def _parser() -> arguments.Parser:
  parser = arguments.Parser('predict.py', __doc__, _NOTES)
  parser.add_argument('images', nargs='+', metavar='IMAGE_OR_FOLDER',
                      help='image files, and folders whose .jpg, .jpeg and .png files are taken')
  parser.add_argument('--saved_model', metavar='D', help='folder that trainer/export.py wrote')
  parser.add_config(required=False)
  parser.add_argument('--checkpoint', metavar='C',
                      help='with --config_file: a prefix such as runs/a/ckpt-1000, or a folder: '
                      'its latest')
  parser.add_output_dir()
  parser.add_argument('--ground_truth', metavar='JSON',
                      help='take image ids from this COCO JSON, by file name (default: the number '
                      'that the file name is, else the file name without extension)')
  parser.add_argument('--eval_scales', type=_scales, metavar='S,S,...',
                      help='average over these scales of the input, e.g. 0.75,1,1.25; with '
                      '--config_file, and of panoptic_deeplab alone')
  parser.add_argument('--add_flipped_images', action='store_true',
                      help='average over mirrored images too; as --eval_scales')
  return parser


def _scales(text: str) -> list[float]:
  try:
    return [float(scale) for scale in text.split(',')]
  except ValueError:
    raise argparse.ArgumentTypeError(f'"{text}" is no list of scales: give numbers with commas '
                                     'between, e.g. 0.75,1,1.25') from None


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
  if args.saved_model is not None and (args.eval_scales or args.add_flipped_images):
    raise UsageError('--eval_scales and --add_flipped_images are for --config_file, and a '
                     'SavedModel is fixed: export it with evaluator_options of these names')
  arguments.check_output_dir(args.output_dir)


def _config(args):
  """The experiment; None with a SavedModel."""
  if args.saved_model is not None:
    return None
  from deeplab_tf import config as config_lib
  config = config_lib.load_config(args.config_file, [*args.override, *_averaging(args)])
  config_lib.require_segmentation(config, 'prediction')
  return config


def _averaging(args) -> list[str]:
  """The flags of test-time augmentation as overrides."""
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
  return Segmenter.from_checkpoint(config, args.checkpoint)


# --- Images -----------------------------------------------------------------------------------


def _find_images(paths: Sequence[str], output_dir: str) -> list[str]:
  """The image files that files and folders name, each once."""
  found = []
  for path in paths:
    if os.path.isdir(path):
      names = sorted(name for name in os.listdir(path)
                     if name.lower().endswith(_EXTENSIONS) and not name.startswith('.'))
      if not names:
        raise UsageError(f'{path}: holds no {", ".join(_EXTENSIONS)} files')
      found += [os.path.join(path, name) for name in names]
    elif os.path.exists(path):
      found.append(path)
    else:
      raise MissingFileError(f'{path}: no such image or folder')
  found = list({os.path.realpath(path): path for path in found}.values())
  for path in found:
    if os.path.realpath(os.path.dirname(path) or '.') == os.path.realpath(output_dir):
      raise UsageError(f'--output_dir={output_dir} holds {path}, which would be overwritten; '
                       'give another folder')
  return found


def _ground_truth_ids(path: Optional[str]) -> Optional[dict[str, Any]]:
  """Stem of the file name -> id, of the images in a COCO JSON."""
  if path is None:
    return None
  from deeplab_tf.metrics import coco_panoptic_io
  content = coco_panoptic_io.read_json(path, 'a COCO ground truth')
  images = content.get('images') if isinstance(content, dict) else None
  if not isinstance(images, list) or not all(
      isinstance(i, dict) and 'id' in i and 'file_name' in i for i in images):
    raise UsageError(f'--ground_truth={path}: has no list "images" with id and file_name; a '
                     'COCO JSON is expected')
  return {_stem(image['file_name']): image['id'] for image in images}


def _name(paths: Sequence[str], known_ids: Optional[dict[str, Any]]) -> list[_Input]:
  """Gives each image output files and an id of its own."""
  inputs, files, ids = [], set(), set()
  for path in paths:
    stem, number = _stem(path), 1
    name = stem
    while files & {f'{name}.png', f'{name}_overlay.png'}:
      number += 1
      name = f'{stem}_{number}'
    files |= {f'{name}.png', f'{name}_overlay.png'}
    if known_ids is not None and stem not in known_ids:
      raise UsageError(f'{path}: --ground_truth lists no image of this name; leave the image '
                       'or the flag out')
    image_id = known_ids[stem] if known_ids is not None else _id_of(stem)
    if image_id in ids:
      image_id = name
    ids.add(image_id)
    inputs.append(_Input(path, name, image_id))
  return inputs


def _stem(path: str) -> str:
  return os.path.splitext(os.path.basename(path))[0]


def _id_of(stem: str) -> Union[int, str]:
  return int(stem) if stem.isascii() and stem.isdigit() else stem


# --- Output -----------------------------------------------------------------------------------


def _write(result, entry: _Input, output_dir: str) -> dict[str, Any]:
  """Writes the two pictures of an image; its annotation in COCO's form."""
  import numpy as np
  from PIL import Image

  from deeplab_tf.metrics import coco_panoptic_io
  info = result.dataset_info
  ids, segments_info = coco_panoptic_io.from_label_map(result.panoptic_map, info)
  # One entry per label but void, in ascending order of the labels.
  labels = [label for label in np.unique(result.panoptic_map).tolist()
            if label // info.label_divisor != info.ignore_label]
  found = {segment.id: segment for segment in result.segments}
  for label, segment_info in zip(labels, segments_info):
    segment_info['isthing'] = int(found[label].isthing)
    segment_info['score'] = found[label].score
  file_name = f'{entry.name}.png'
  coco_panoptic_io.write_panoptic_png(os.path.join(output_dir, file_name), ids)
  overlay = Image.fromarray(result.overlay())
  overlay.save(os.path.join(output_dir, f'{entry.name}_overlay.png'))
  return {'image_id': entry.image_id, 'file_name': file_name, 'segments_info': segments_info}


if __name__ == '__main__':
  sys.exit(main())
