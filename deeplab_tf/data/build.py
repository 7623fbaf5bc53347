"""Makes TFRecords from a raw data set, checking every label.

  python -m deeplab_tf.data.build --dataset=coco_panoptic --root=COCO --split=train \\
      --output_dir=RECORDS

Files are written under temporary names and renamed when all of them are complete, so an
interrupted build leaves none behind. Field names, labels and the order of images are those of
DeepLab2's builders.

  python -m deeplab_tf.data.build --dataset=coco_panoptic --root=COCO --split=train --dry_run

A dry run writes nothing: it reads all data, prints statistics and lists all problems. It exits with
code 2 if there are problems. To check the data that a config names, including records:

  python -m deeplab_tf.data.build --config_file=mine.textproto --split=train --dry_run
"""

import os
import signal
import sys
from typing import Callable, Optional, Sequence

from deeplab_tf import arguments, cli, modules
from deeplab_tf import config as config_lib
from deeplab_tf.classes import AnyInfo
from deeplab_tf.data import catalog, records, sources, threads
from deeplab_tf.user_errors import UsageError

_IMAGES_PER_SHARD = 128
# Numbers of images of the complete data sets.
_SPLIT_SIZES = {
    'coco_panoptic': {'train': (118287,), 'val': (5000,), 'test': (20288, 40670)},
    'cityscapes_panoptic': {'train': (2975,), 'val': (500,), 'test': (1525,)},
    'ade20k_panoptic': {'train': (20210,), 'val': (2000,)},
    'mapillary_vistas': {'train': (18000,), 'val': (2000,), 'test': (5000,)},
}
_SPLIT_SIZES.update({name: _SPLIT_SIZES[base] for name, base in catalog.INSTANCES.items()})


def build(examples: Sequence[Callable], output_dir: str, split: str,
          num_shards: Optional[int] = None, num_workers: Optional[int] = None,
          notes: Optional[sources.Notes] = None,
          info: Optional[AnyInfo] = None) -> list[str]:
  """Writes examples to shards `SPLIT-%05d-of-%05d.tfrecord`.

  Args:
    examples: Functions that each return a SourceExample.
    output_dir: Folder of the shards, created if needed; shards of the same names are replaced.
    split: Prefix of the file names.
    num_shards: Number of shards; by default as many as give about 128 images each, at most 1000.
    num_workers: Number of threads that read images; one per core by default.
    notes: Collects the images that were rotated upright.
    info: Classes of the labels, which are stored in the records; by default none are stored.

  Returns:
    The paths of the shards.
  """
  if not num_shards:
    num_shards = min(1000, -(-len(examples) // _IMAGES_PER_SHARD))
  paths = [os.path.join(output_dir, f'{split}-{i:05d}-of-{num_shards:05d}.tfrecord')
           for i in range(num_shards)]
  per_shard = -(-len(examples) // num_shards)
  os.makedirs(output_dir, exist_ok=True)
  try:
    _write_shards(examples, paths, per_shard, num_workers or os.cpu_count(),
                  _serializer(notes or sources.Notes(), info))
    for path in paths:
      os.replace(_temporary(path), path)
  finally:
    for path in paths:
      if os.path.exists(_temporary(path)):
        os.remove(_temporary(path))
  return paths


def _temporary(path):
  return path + records.INCOMPLETE


def _serializer(notes, info):
  """Returns a function that turns a function returning a SourceExample into a record."""
  from deeplab_tf.data.records import classes, tfrecord
  stated = classes.describe(info) if info else b''

  def serialized(make):
    example = make()
    if example.turned != 1:
      notes.add(sources.TURNED, f'{example.name}: {example.turned}')
    return tfrecord.serialize(example, stated)

  return serialized


def _write_shards(examples, paths, per_shard, num_workers, serialized):
  import tensorflow as tf
  import tqdm
  with tqdm.tqdm(total=len(examples), unit='image', desc='building', file=sys.stderr) as bar:
    for shard, path in enumerate(paths):
      chosen = examples[shard * per_shard:(shard + 1) * per_shard]
      with tf.io.TFRecordWriter(_temporary(path)) as writer:
        for record in threads.in_order(num_workers, serialized, chosen):
          writer.write(record)
          bar.update()


# --- Command line -----------------------------------------------------------------------------


def main(argv: Optional[Sequence[str]] = None) -> None:
  """Runs the program."""
  args = _parser().parse_args(argv)
  _check(args)
  # A terminated build cleans up as an interrupted one does.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  if not args.dataset:
    _survey_of_config(args)
    return
  module = modules.load('data.sources', args.dataset.split('/')[0])
  given = {name: getattr(args, name) for name in sources.BuildOptions._fields if name in args}
  notes = sources.Notes()
  options = sources.BuildOptions(**given, label_folders=_label_folders(args), say=_say,
                                 note=notes.add)
  if args.dry_run:
    _survey(module, options, args)
    return
  examples = _examples(module, options)
  _warn_of_count(args, len(examples))
  paths = build(examples, args.output_dir, args.split, num_shards=args.num_shards,
                num_workers=args.num_workers, notes=notes, info=module.classes(options))
  for line in notes.lines():
    _say(f'WARNING: {line}')
  pattern = os.path.join(args.output_dir, f'{args.split}-*-of-{len(paths):05d}.tfrecord')
  print(f'{len(examples)} images in {len(paths)} files: {pattern}')
  hint = _how_to_read(args, options, module)
  if hint:
    print(f'read them with {hint}')


def _check(args):
  """Rejects invalid flags before TensorFlow is imported."""
  available = [name for name in modules.available('data.sources') if name != 'tfds']
  available += catalog.TFDS
  if not args.dataset:
    if not args.dry_run or not args.config_file:
      raise UsageError(f'--dataset is missing: available are {", ".join(available)}; or look '
                       'at the data of a config with --config_file and --dry_run')
    return
  if args.dataset not in available:
    raise UsageError(f'--dataset={args.dataset} is unknown: available are '
                     f'{", ".join(available)}.{modules.nearest(args.dataset, available)}')
  described = args.dataset == 'label_folders'
  if described != bool(args.config_file):
    raise UsageError(
        '--config_file is missing: the experiment whose dataset_options have label_folders'
        if described else f'--config_file is for label_folders; {args.dataset} takes --root')
  if not args.root and args.dataset not in ('shapes', 'label_folders', *catalog.TFDS):
    raise UsageError('--root is missing: the folder of the raw data set')
  if not args.output_dir and not args.dry_run:
    raise UsageError('--output_dir is missing: where the records go; or look at the data first '
                     'with --dry_run')
  if args.max_images is not None and not args.dry_run:
    raise UsageError('--max_images is for --dry_run')
  for flag in ('num_shards', 'num_images', 'max_images'):
    value = getattr(args, flag)
    if value is not None and value < 1:
      raise UsageError(f'--{flag}={value}: it must be at least 1')


def _label_folders(args):
  """Returns the LabelFoldersOptions of the config; None for other data sets."""
  if not args.config_file:
    return None
  options, field = _dataset_options(args)
  if options.dataset != args.dataset:
    raise UsageError(f'{args.config_file}: {field}.dataset is "{options.dataset}"; '
                     f'"{args.dataset}" is expected')
  return options.label_folders


def _dataset_options(args):
  """Returns the DatasetOptions of the config for the split, and their field name."""
  config = config_lib.load_config(args.config_file, args.override)
  if args.split == 'test':
    raise UsageError('--split=test: a config describes train and val')
  field = 'train_dataset_options' if args.split == 'train' else 'eval_dataset_options'
  return getattr(config, field), field


def _examples(module, options):
  if hasattr(module, 'examples'):
    return module.examples(options)
  from deeplab_tf.data.sources import _labeled_files
  return _labeled_files.examples(module.files(options))


def _survey(module, options, args):
  from deeplab_tf.data import survey
  found = survey.take(lambda options: _examples(module, options), module.classes(options), options,
                      args.max_images, args.num_workers)
  if not args.max_images:
    _warn_of_count(args, len(found.sizes))
  _show(found)


def _survey_of_config(args):
  from deeplab_tf.data import survey
  options, field = _dataset_options(args)
  _show(survey.take_configured(options, catalog.from_options(options), field, args.max_images,
                               args.num_workers))


def _show(found):
  from deeplab_tf.data import survey
  for line in survey.lines(found):
    print(line)
  if found.problems:
    raise UsageError(f'problems of the data set: {len(found.problems)}; see above')


def _warn_of_count(args, count):
  expected = _SPLIT_SIZES.get(args.dataset, {}).get(args.split)
  if expected and count not in expected:
    _say(f'WARNING: {count} images; the complete split "{args.split}" of {args.dataset} has '
         f'{" or ".join(map(str, expected))}')


def _say(line):
  print(line, file=sys.stderr)


def _how_to_read(args, options, module):
  """Returns the config options that read the records; None if the data set's name is enough."""
  if args.dataset == 'image_folders':
    return ('dataset: "imagenet" imagenet { num_classes: '
            f'{len(catalog.class_folders(args.root))} }}')
  if args.dataset == 'label_folders':
    return f'the label_folders of {args.config_file} and file_pattern, without its folders'
  if args.dataset == 'mapillary_vistas_v2' and args.split != 'test':
    return (f'dataset: "coco_format" coco_format {{ annotation_file: "{module.json_file(options)}" '
            f'label_divisor: {module.LABEL_DIVISOR} }}')
  return None


def _parser():
  parser = arguments.Parser('python -m deeplab_tf.data.build', __doc__.split('\n')[0])
  parser.add_argument('--dataset',
                      help='e.g. coco_panoptic, cityscapes_panoptic, coco_format, label_folders, '
                      'coco_instances, coco_instance_format')
  parser.add_argument('--root', default='',
                      help='folder of the raw data set; the data_dir for tfds/...')
  parser.add_argument('--split', required=True, choices=sources.SPLITS)
  parser.add_argument('--output_dir', help='folder of the records')
  parser.add_argument('--num_shards', type=int,
                      help='number of record files; default: about 128 images in each')
  parser.add_argument('--num_workers', type=int, help='number of threads; default: one per core')
  parser.add_argument('--dry_run', action='store_true',
                      help='write nothing, but read all data and print statistics and problems')
  parser.add_argument('--max_images', type=int,
                      help='number of images of a dry run; default: all')
  crowd = parser.add_mutually_exclusive_group()
  crowd.add_argument('--treat_crowd_as_ignore', dest='treat_crowd_as_ignore', default=None,
                     action='store_true', help='crowd becomes unlabeled (default for '
                     'coco_panoptic and cityscapes_panoptic); masks that may overlap: is left out')
  crowd.add_argument('--keep_crowd', dest='treat_crowd_as_ignore', action='store_false',
                     help='crowd stays; in panoptic maps it is instance 0 (default for the '
                     'others)')
  group = parser.add_argument_group('coco_format and coco_instance_format, relative to --root')
  group.add_argument('--annotation_file', help='panoptic or instance JSON; for coco_panoptic and '
                     'coco_instances with --split=test the JSON that lists the images')
  group.add_argument('--annotation_dir',
                     help='for coco_format, folder of the panoptic PNGs; default: the JSON '
                     'without .json')
  group.add_argument('--image_dir', help='folder of the images')
  group.add_argument('--label_divisor', type=int, default=256,
                     help='for coco_format, larger than the number of instances of a class in '
                     'an image (256)')
  parser.add_config(required=False)
  group = parser.add_argument_group('shapes')
  group.add_argument('--num_images', type=int, default=2000)
  group.add_argument('--seed', type=int, default=0)
  return parser


if __name__ == '__main__':
  sys.exit(cli.run(main))
