"""Exports a TensorFlow Lite model with a fixed input size."""

import os

import tensorflow as tf

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.export.saved_model import whole_folder, write_description
from deeplab_tf.export.serving_module import ServingModule, compact_segments
from deeplab_tf.structures import PanopticPrediction
from deeplab_tf.user_errors import ConfigError

MODEL_FILE = 'model.tflite'


def export_tflite(module: ServingModule, config, dataset_info: DatasetInfo,
                  export_dir: str) -> None:
  """Writes model.tflite, the classes (dataset.json) and the config, or nothing on failure.

  The input is uint8 [1, *crop_size, 3], already resized and padded by the caller. The outputs are
  those of the SavedModel at that size. Only built-in TensorFlow Lite operations are used.

  Args:
    module: The module to export.
    config: ExperimentOptions of the module.
    dataset_info: The classes.
    export_dir: Folder to write. An earlier export in it is replaced.

  Raises:
    ValueError: The config has no evaluation crop size, or the folder contains other files.
  """
  if not module.augmentation.crop_size:
    raise ConfigError('eval_dataset_options.crop_size is not set: a tflite file has one input '
                      "size; set it with --override='eval_dataset_options { crop_size: 641 "
                      "crop_size: 641 size_divisor: 0 }'")
  with whole_folder(export_dir, MODEL_FILE) as folder:
    with open(os.path.join(folder, MODEL_FILE), 'wb') as file:
      file.write(_convert(module))
    write_description(folder, config, dataset_info)


def _convert(module: ServingModule) -> bytes:
  spec = tf.TensorSpec([1, *module.augmentation.crop_size, 3], tf.uint8, 'images')

  @tf.function(input_signature=[spec], autograph=False)
  def predict(images):
    prediction = module.predict_prepared(module.augmentation.normalization.apply(images))
    if isinstance(prediction, PanopticPrediction):
      prediction = compact_segments(prediction)
    return prediction._asdict()

  converter = tf.lite.TFLiteConverter.from_concrete_functions(
      [predict.get_concrete_function()], module)
  converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
  return converter.convert()
