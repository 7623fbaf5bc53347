"""Generates small images in one folder per class, to try pre-training without ImageNet.

  python scripts/draw_class_folders.py --output_dir=runs/shape_classes

Each image is an object of the dataset "shapes" with its surroundings. The class is its outline
(disc, square, triangle, star, cross, ring), while color and size are independent of the class.
Writes OUTPUT_DIR/train/CLASS/*.png and OUTPUT_DIR/val/CLASS/*.png, which the config
configs/shapes/axial_resnet_s.textproto reads.
"""

import contextlib
import os
import sys
import tempfile
from typing import Iterator, Optional, Sequence

import numpy as np
import tqdm
from PIL import Image

from deeplab_tf import arguments, cli
from deeplab_tf.data.sources import _shape_scenes
from deeplab_tf.user_errors import UsageError

# Side of an image, to which objects are resized.
_SIDE = 64
# Side of the crop, relative to the larger side of the object.
_SURROUNDINGS = 1.3


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  parser = arguments.Parser('draw_class_folders.py', __doc__)
  parser.add_output_dir()
  parser.add_argument('--train_images', type=arguments.positive, default=1000, metavar='N',
                      help='number of images per class (default: %(default)s)')
  parser.add_argument('--val_images', type=arguments.positive, default=100, metavar='N',
                      help='number of images per class (default: %(default)s)')
  args = parser.parse_args(argv)
  if os.path.exists(args.output_dir) and (not os.path.isdir(args.output_dir)
                                          or os.listdir(args.output_dir)):
    raise UsageError(f'--output_dir={args.output_dir} already exists; give a new folder, so '
                     'that it contains no other images')
  with _whole_folder(args.output_dir) as folder:
    for split, count in (('train', args.train_images), ('val', args.val_images)):
      _draw_split(os.path.join(folder, split), split, count)
  print(f'{len(_shape_scenes.THINGS)} classes, {args.train_images} images of each to train and '
        f'{args.val_images} to evaluate, written to {args.output_dir}')


@contextlib.contextmanager
def _whole_folder(path: str) -> Iterator[str]:
  """Yields a folder that is renamed to --output_dir at the end, so that it is always complete."""
  arguments.make_output_dir(path)
  target = os.path.realpath(path)
  parent, name = os.path.split(target)
  try:
    os.rmdir(target)
    beside = tempfile.TemporaryDirectory(prefix=f'.{name}.', dir=parent)
  except OSError as error:
    raise UsageError(f'--output_dir={path}: cannot be written beside it ({error.strerror}); '
                     'give another folder') from None
  with beside as temporary:
    # The temporary folder itself is not readable by other users.
    new = os.path.join(temporary, name)
    os.mkdir(new)
    yield new
    os.replace(new, target)


def _draw_split(folder: str, split: str, count: int) -> None:
  """Writes `count` images of each class."""
  drawn = dict.fromkeys(_shape_scenes.THINGS, 0)
  for name in _shape_scenes.THINGS:
    os.makedirs(os.path.join(folder, name))
  with tqdm.tqdm(total=count * len(drawn), desc=split, unit=' images', disable=None) as progress:
    for name, image in _objects(split):
      if drawn[name] < count:
        image.save(os.path.join(folder, name, f'{drawn[name]:05d}.png'))
        drawn[name] += 1
        progress.update()
      if min(drawn.values()) == count:
        return


def _objects(split: str) -> Iterator[tuple[str, Image.Image]]:
  """Yields classes and images of the objects of an infinite sequence of scenes."""
  index = 0
  while True:
    pixels, label = _shape_scenes.generate(split, index)
    index += 1
    for value in np.unique(label):
      kind, instance = divmod(int(value), _shape_scenes.LABEL_DIVISOR)
      if 1 <= kind <= len(_shape_scenes.THINGS) and instance:  # Instance 0 is a crowd.
        yield _shape_scenes.THINGS[kind - 1], _cut_out(pixels, label == value)


def _cut_out(pixels: np.ndarray, mask: np.ndarray) -> Image.Image:
  """Returns the square around an object, shifted if needed to lie inside the image."""
  places = np.argwhere(mask)
  (top, left), (bottom, right) = places.min(0), places.max(0) + 1
  side = min(int(_SURROUNDINGS * max(bottom - top, right - left)), *mask.shape)
  top, left = (int(np.clip((low + high - side) // 2, 0, size - side))
               for low, high, size in zip((top, left), (bottom, right), mask.shape))
  square = Image.fromarray(pixels[top:top + side, left:left + side])
  return square.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)


if __name__ == '__main__':
  sys.exit(main())
