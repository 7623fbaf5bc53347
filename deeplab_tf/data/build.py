"""Makes TFRecords from a raw data set, checking every label.

  python -m deeplab_tf.data.build --dataset=coco_panoptic --root=COCO --split=train \\
      --output_dir=RECORDS

Files are written under a temporary name and renamed when all of them are complete, so an
interrupted build leaves none behind. Field names, labels and the order of images are those of
DeepLab2's builders.
"""

import concurrent.futures
import os
import signal
import sys
from typing import Callable, Optional, Sequence

from deeplab_tf import arguments, cli, modules
from deeplab_tf.data import catalog, sources

SPLITS = ('train', 'val', 'test')
_IMAGES_PER_SHARD = 128


def build(examples: Sequence[Callable], output_dir: str, split: str,
          num_shards: Optional[int] = None, num_workers: Optional[int] = None) -> list[str]:
  """Writes examples to shards `SPLIT-%05d-of-%05d.tfrecord`.

  Args:
    examples: Functions that each return a SourceExample.
    output_dir: Made if it does not exist; shards of the same names are replaced.
    split: Begins the file names.
    num_shards: Default: about 128 images each, at most 1000.
    num_workers: Threads that read images; default: one per core.

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
    _write_shards(examples, paths, per_shard, num_workers or os.cpu_count())
    for path in paths:
      os.replace(_temporary(path), path)
  finally:
    for path in paths:
      if os.path.exists(_temporary(path)):
        os.remove(_temporary(path))
  return paths


def _temporary(path):
  return path + sources.INCOMPLETE


def _write_shards(examples, paths, per_shard, num_workers):
  import tensorflow as tf
  import tqdm

  from deeplab_tf.data import tfrecord
  with concurrent.futures.ThreadPoolExecutor(num_workers) as pool, tqdm.tqdm(
      total=len(examples), unit='image', desc='building', file=sys.stderr) as bar:
    for shard, path in enumerate(paths):
      chosen = examples[shard * per_shard:(shard + 1) * per_shard]
      with tf.io.TFRecordWriter(_temporary(path)) as writer:
        for record in _in_order(pool, lambda make: tfrecord.serialize(make()), chosen):
          writer.write(record)
          bar.update()


def _in_order(pool, function, items):
  """As pool.map, but with few results waiting, and without the rest once one has failed."""
  ahead = 16
  futures = [pool.submit(function, argument) for argument in items[:ahead]]
  try:
    for position in range(len(items)):
      if position + ahead < len(items):
        futures.append(pool.submit(function, items[position + ahead]))
      future, futures[position] = futures[position], None
      yield future.result()
  finally:
    for future in futures:
      if future is not None:
        future.cancel()


# --- Command line -----------------------------------------------------------------------------


def main(argv: Optional[Sequence[str]] = None) -> None:
  """Runs the program."""
  args = _parser().parse_args(argv)
  available = modules.available('data.sources')
  if args.dataset not in available:
    problem = ('cannot be built yet' if args.dataset in catalog.names() else 'is unknown')
    raise cli.UsageError(f'--dataset={args.dataset} {problem}: available are '
                         f'{", ".join(available)}.{modules.nearest(args.dataset, available)}')
  if args.dataset != 'shapes' and not args.root:
    raise cli.UsageError('--root is missing: the folder of the raw data set')
  if args.num_shards is not None and args.num_shards < 1:
    raise cli.UsageError(f'--num_shards={args.num_shards}: it must be at least 1')
  if args.num_images < 1:
    raise cli.UsageError(f'--num_images={args.num_images}: it must be at least 1')
  # So that a terminated build cleans up as an interrupted one does.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  module = modules.load('data.sources', args.dataset)
  options = sources.BuildOptions(
      **{field: getattr(args, field) for field in sources.BuildOptions._fields})
  examples = module.examples(options)
  paths = build(examples, args.output_dir, args.split, args.num_shards,
                args.num_workers)
  pattern = f'{args.split}-*-of-{len(paths):05d}.tfrecord'
  print(f'{len(examples)} images in {len(paths)} files: '
        f'{os.path.join(args.output_dir, pattern)}')
  if args.dataset == 'image_folders':
    print('read them with dataset: "imagenet" imagenet { num_classes: '
          f'{len(catalog.class_folders(args.root))} }}')


def _parser():
  parser = arguments.Parser('python -m deeplab_tf.data.build', __doc__.split('\n')[0])
  parser.add_argument('--dataset', required=True,
                      help='e.g. coco_panoptic, coco_format, image_folders, shapes')
  parser.add_argument('--root', default='', help='folder of the raw data set')
  parser.add_argument('--split', required=True, choices=SPLITS)
  parser.add_argument('--output_dir', required=True, help='where the records go')
  parser.add_argument('--num_shards', type=int, help='default: about 128 images in each')
  parser.add_argument('--num_workers', type=int, help='threads; default: one per core')
  crowd = parser.add_mutually_exclusive_group()
  crowd.add_argument('--treat_crowd_as_ignore', dest='treat_crowd_as_ignore', default=None,
                     action='store_true', help='crowd becomes unlabelled (default for COCO)')
  crowd.add_argument('--keep_crowd', dest='treat_crowd_as_ignore', action='store_false',
                     help='crowd stays, as instance 0 (default for coco_format and shapes)')
  group = parser.add_argument_group('coco_format, relative to --root')
  group.add_argument('--annotation_file', help='panoptic JSON')
  group.add_argument('--annotation_dir', help='its PNGs; default: the JSON without .json')
  group.add_argument('--image_dir', help='images')
  group.add_argument('--label_divisor', type=int, default=256,
                     help='more than the instances of a class in an image (256)')
  group = parser.add_argument_group('shapes')
  group.add_argument('--num_images', type=int, default=2000)
  group.add_argument('--seed', type=int, default=0)
  return parser


if __name__ == '__main__':
  sys.exit(cli.run(main))
