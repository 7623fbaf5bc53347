"""The recorded checkpoints of Mask2Former, and the names of the released ones."""

import json
import pathlib

import numpy as np
import shared
import tensorflow as tf

import deeplab_tf
from deeplab_tf.checkpoints import huggingface_config
from deeplab_tf.layers.variable_paths import variables_by_path

TINY = ('r50', 'swin')
# Name in the recorded data -> backbone of the config.
RELEASED = {'r50': 'torchvision_resnet50', 'r101': 'torchvision_resnet101',
            'swin_tiny': 'swin_tiny', 'swin_small': 'swin_small', 'swin_base': 'swin_base',
            'swin_large': 'swin_large'}


def folder(variant: str) -> pathlib.Path:
  """Returns the folder of a tiny checkpoint."""
  return shared.path('parity', 'mask2former', f'checkpoint_tiny_{variant}')


def tiny_config(variant: str):
  """Returns the config of a tiny checkpoint."""
  return huggingface_config.make(str(folder(variant) / 'hf')).config


def assert_outputs_are_recorded(model, variant: str) -> None:
  """Compares the last prediction for the recorded image."""
  expected = np.load(folder(variant) / 'expected.npz')
  outputs = model(tf.constant(expected['network_input_nchw'].transpose(0, 2, 3, 1)))
  # Tolerances of the recorded data: float32 in another order of operations differs by 3e-5.
  np.testing.assert_allclose(outputs['class_logits'], expected['class_logits'][-1], atol=2e-5)
  np.testing.assert_allclose(outputs['mask_logits'],
                             expected['mask_logits'][-1].transpose(0, 2, 3, 1), atol=2e-4)


def released_weights(variant: str) -> list[dict]:
  """Returns name, names at Hugging Face and shape of each weight of a released model."""
  path = shared.path('parity', 'mask2former', f'weights_{variant}.json')
  return json.loads(path.read_text())['weights']


def released_model(variant: str, tmp_path: pathlib.Path):
  """Returns the model of a released checkpoint, in a graph in which variables have no values."""
  queries = next(w['shape'][0] for w in released_weights(variant)
                 if w['name'].endswith('query_feat.weight'))
  (tmp_path / 'config.textproto').write_text(
      f'model_options {{ backbone {{ name: "{RELEASED[variant]}" }} '
      f'mask2former {{ num_queries: {queries} }} }} '
      'eval_dataset_options { dataset: "coco_panoptic" }')
  with tf.Graph().as_default():
    return deeplab_tf.build_model(deeplab_tf.load_config(tmp_path / 'config.textproto'))


def assert_every_weight_is_used(reference, model, shapes: dict[str, list[int]]) -> None:
  """Checks that each weight fits one variable, or each of its parts one, and names every variable.

  Args:
    reference: Module of the program's names.
    model: The model.
    shapes: Shapes of all arrays in a checkpoint, by name.
  """
  names = reference.weight_names(shapes)
  arrays = {own: np.broadcast_to(np.float32(0), shapes[name]) for name, own in names.items()}
  assert len(arrays) == len(names)
  left = dict.fromkeys(arrays, 1.0)
  for path, variable in variables_by_path(model).items():
    (origin,) = reference.origins(path, model)
    value = origin.value(arrays)
    assert [n for n in value.shape if n > 1] == [n for n in variable.shape if n > 1], path
    for piece in origin.pieces:
      left[piece.name] -= 1 / piece.count
  assert all(abs(share) < 1e-6 for share in left.values()), left
