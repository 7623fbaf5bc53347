"""Writes the zip files of submissions."""

import io
import zipfile
from typing import Callable

import numpy as np
from PIL import Image

from deeplab_tf.formats import atomic_file
from deeplab_tf.formats import coco_panoptic as panoptic_io


def write(path: panoptic_io.PathLike, fill: Callable[[zipfile.ZipFile], None]) -> None:
  """Writes a zip file, atomically; `fill` adds its files."""
  with atomic_file.replacing(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
    fill(archive)


def add_png(archive: zipfile.ZipFile, name: str, pixels: np.ndarray) -> None:
  """Adds an image, uint8 [height, width] or [height, width, 3]."""
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, 'png')
  add(archive, name, stream.getvalue(), zipfile.ZIP_STORED)


def add(archive: zipfile.ZipFile, name: str, data: bytes,
        compression: int = zipfile.ZIP_DEFLATED) -> None:
  """Adds a file."""
  # The time is fixed, so that equal predictions give equal files.
  archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, compression)
