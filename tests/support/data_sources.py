"""Opens and loads data sets of the library, for tests."""

import tensorflow as tf
from google.protobuf import text_format

from deeplab_tf import cli
from deeplab_tf.data import build, catalog, readers
from deeplab_tf.protos import data_pb2
from deeplab_tf.user_errors import DataError

# Errors of a Python function, inside tf.data and outside.
FAILURES = (tf.errors.OpError, DataError)


def build_instances(folder, *arguments):
  """Runs the builder on the instance data of a folder; returns the exit code."""
  return cli.run(build.main, ['--dataset=coco_instance_format', f'--root={folder.root}',
                              '--split=val', *map(str, arguments)])


def open_source(text):
  """Returns the source of DatasetOptions."""
  options = text_format.Parse(text, data_pb2.DatasetOptions())
  return readers.open_source(options, catalog.from_options(options), 'dataset_options')


def load(text):
  """Name -> LabeledImage of numpy arrays, in order."""
  source = open_source(text)
  found = source.in_order().map(source.load)
  return {e.name.numpy().decode(): tf.nest.map_structure(lambda x: x.numpy(), e) for e in found}
