"""Exports a SavedModel that runs with TensorFlow alone."""

import contextlib
import os
import shutil
import tempfile
from typing import Iterator

import tensorflow as tf
from google.protobuf import text_format

from deeplab_tf import listing
from deeplab_tf.checkpoints import files, literal_paths
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.export.serving_module import ServingModule
from deeplab_tf.formats import atomic_file
from deeplab_tf.user_errors import HostError, UsageError

EXTRA_FOLDER = 'assets.extra'
DATASET_FILE = 'dataset.json'
CONFIG_FILE = 'config.textproto'


def export_saved_model(module: ServingModule, config, dataset_info: DatasetInfo,
                       export_dir: str) -> None:
  """Writes a module with its two signatures, or nothing on failure.

  The folder assets.extra contains the classes (dataset.json) and the config, which TensorFlow does
  not read.

  Args:
    module: The module to export.
    config: ExperimentOptions of the module.
    dataset_info: The classes.
    export_dir: Folder to write. An earlier export in it is replaced.

  Raises:
    ValueError: The folder contains other files.
  """
  signatures = {'serving_default': module.predict, 'serve_encoded': module.predict_encoded}
  with whole_folder(export_dir, 'saved_model.pb') as folder:
    tf.saved_model.save(module, literal_paths.folder(folder), signatures)
    write_description(os.path.join(folder, EXTRA_FOLDER), config, dataset_info)


def write_description(folder: str, config, dataset_info: DatasetInfo) -> None:
  """Writes the classes and the config of an export to a folder."""
  os.makedirs(folder, exist_ok=True)
  with open(os.path.join(folder, DATASET_FILE), 'w', encoding='utf-8') as file:
    file.write(dataset_info.to_json())
  with open(os.path.join(folder, CONFIG_FILE), 'w', encoding='utf-8') as file:
    file.write(text_format.MessageToString(config))


@contextlib.contextmanager
def whole_folder(target: str, main_file: str) -> Iterator[str]:
  """Yields a temporary folder that replaces the target on success.

  Args:
    target: Folder to write.
    main_file: Name of the file that identifies an earlier export, which may be replaced.

  Raises:
    ValueError: The target is a file, or a folder with other files.
  """
  check_target(target, main_file)
  # Writes to the target of a link instead of replacing the link.
  target = os.path.realpath(target)
  parent = os.path.dirname(target)
  os.makedirs(parent, exist_ok=True)
  temporary = tempfile.mkdtemp(prefix='.export.', dir=parent)
  try:
    new, old = os.path.join(temporary, 'new'), os.path.join(temporary, 'old')
    os.mkdir(new)
    yield new
    if os.path.isdir(target):
      os.replace(target, old)
    os.replace(new, target)
  except tf.errors.OpError as error:
    raise HostError(f'{target} cannot be written ({files.first_line(error)})') from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def check_target(target: str, main_file: str) -> None:
  """Checks that an export may be written to a folder; see `whole_folder`."""
  if not target:
    raise UsageError('the folder of the export has no name; give one')
  if os.path.isfile(target):
    raise UsageError(f'{target} is a file; the export is a folder, give another name')
  real = os.path.realpath(target)
  reason = (atomic_file.why_not_writable(os.path.dirname(real))
            or atomic_file.why_not_writable(real))
  if reason:
    raise UsageError(f'{target} cannot be written to: {reason}; give another folder')
  names = os.listdir(target) if os.path.isdir(target) else []
  if main_file not in names and not all(map(listing.is_left_by_system, names)):
    raise UsageError(f'{target} holds files that are no earlier export ({main_file}); give a new '
                     'or an empty folder')
