"""Exports a trained model to a format that runs without this library.

  python trainer/export.py --config_file=F --checkpoint=runs/a --export_dir=exported
"""

import sys
from typing import Optional, Sequence

from deeplab_tf import arguments, cli

_NOTES = """\
formats:
  saved_model  for tf.saved_model.load and TensorFlow Serving. Signatures: serving_default takes
               `images` uint8 [batch, height, width, 3] of any size, serve_encoded takes
               `encoded_images` string [batch], JPEG or PNG, whose EXIF orientation is applied.
               All images of a batch have the same size. Images are resized, padded and
               normalized inside, as in evaluation.
  tflite       one fixed input size, eval_dataset_options.crop_size: `images` uint8
               [1, height, width, 3].
outputs:
  panoptic     panoptic_map, semantic_map, instance_map int32 [batch, height, width]; segment_ids,
               segment_classes, segment_scores [batch, segments], padded with -1
  instance     instance_masks uint8 [batch, instances, height, width], instance_boxes float32
               [batch, instances, 4] (y1, x1, y2, x2 in pixels), instance_classes,
               instance_scores [batch, instances], padded with -1
  semantic     semantic_map int32 [batch, height, width]; with --semantic_scores also
               semantic_scores float32 [batch, height, width, classes], by ascending class id
"""


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  from deeplab_tf import config as config_lib
  config = config_lib.load_config(args.config_file, args.override)
  config_lib.require_segmentation(config, 'export')
  from deeplab_tf import models, tasks
  from deeplab_tf.checkpoints import restore
  from deeplab_tf.data import catalog
  from deeplab_tf.export import saved_model, serving_module, tflite
  task = tasks.used_for(config, args.task)
  models.architecture(config).check_task(config, task)
  # Paths are checked before the network is built.
  prefix = restore.find_checkpoint(args.checkpoint)
  is_tflite = args.format == 'tflite'
  saved_model.check_target(args.export_dir, tflite.MODEL_FILE if is_tflite else 'saved_model.pb')
  dataset_info = catalog.from_config(config)
  model = serving_module.build_network(config, dataset_info)
  restore.load_checkpoint(model, prefix)
  module = serving_module.build(config, dataset_info, model, task=task,
                                semantic_scores=args.semantic_scores)
  export = tflite.export_tflite if is_tflite else saved_model.export_saved_model
  export(module, config, tasks.classes(task, dataset_info), args.export_dir)
  print(f'exported {prefix} to {args.export_dir}')


def _parser() -> arguments.Parser:
  parser = arguments.Parser('export.py', __doc__, _NOTES)
  parser.add_config()
  parser.add_checkpoint()
  parser.add_argument('--export_dir', required=True, metavar='D', type=arguments.path,
                      help='folder to write; an earlier export in it is replaced')
  parser.add_argument('--task', choices=('panoptic', 'instance', 'semantic'),
                      help='the task to do with a panoptic mask2former (default: that of the '
                      'config)')
  parser.add_argument('--semantic_scores', action='store_true',
                      help='semantic segmentation also returns the scores of all classes')
  parser.add_argument('--format', choices=('saved_model', 'tflite'), default='saved_model')
  return parser


if __name__ == '__main__':
  sys.exit(main())
