"""Sets the weights of layers from a parity case and reads the recorded outputs."""

import json

import numpy as np
import shared
import tensorflow as tf

import deeplab_tf
from deeplab_tf.checkpoints import from_deeplab2
from deeplab_tf.layers.variable_paths import variables_by_path


def recipe_weights(description: dict) -> dict[str, np.ndarray]:
  """Returns the case's weights by DeepLab2's names."""
  recipe = shared.recipe()
  prefix = description.get('weight_name_prefix', '')
  return {w['key']: recipe.weight(prefix + w['key'], w['shape'], w['role'], w.get('fan_in'))
          for w in description['weights']}


def load_model_case(name: str) -> tuple[dict, dict, dict]:
  """Returns the description, the noise and the recorded arrays of a whole model."""
  folder = shared.path('parity', 'deeplab2')
  description, noise = (json.loads((folder / f'{kind}_{name}.json').read_text())
                        for kind in ('weights', 'noise'))
  return description, noise, dict(np.load(folder / f'outputs_{name}.npz'))


def load_config(description: dict):
  """Returns the published config that a case was recorded with, at the case's input size."""
  height, width = description['train_crop_size']
  size = (f'crop_size: {height} crop_size: {width} min_resize_value: 0 max_resize_value: 0')
  return deeplab_tf.load_config(
      shared.path('parity', 'deeplab2', 'configs', description['config']),
      [f'train_dataset_options {{ {size} }} eval_dataset_options {{ {size} }}'])


def images(description: dict) -> tf.Tensor:
  """Returns the case's image, normalised, float32 [1, height, width, 3]."""
  image = shared.recipe().image(description['image_name'], *description['image_size'])
  # The recorded input is in [0, 255]; normalised with its own rounding.
  image = ((image + 1) * np.float32(127.5)) / np.float32(127.5) - 1
  return tf.constant(image[None])


def assert_recorded(actual, recorded: dict, noise: dict, name: str) -> None:
  """Compares a tensor with a recorded one, within what rounding alone does to it."""
  actual = np.asarray(actual)
  assert actual.size == np.prod(recorded[f'{name}|shape']), name
  values = actual.reshape(-1)[recorded[f'{name}|idx']]
  # Rounding alone moves an endpoint by `max_abs_diff`; 1e-4 of the maximum is comfortable.
  tolerance = max(1e-4 * noise[name]['max_abs'], 2 * noise[name]['max_abs_diff'])
  assert np.abs(values - recorded[f'{name}|val']).max() <= tolerance, name


def load_layer_case(name: str) -> tuple[dict, dict]:
  """Returns the description and the arrays of a case in layers/."""
  folder = shared.path('parity', 'deeplab2', 'layers')
  description = json.loads((folder / f'{name}.json').read_text())
  return description, dict(np.load(folder / f'{name}.npz'))


def layer_keys(layer) -> dict:
  """Returns the layer's variables by DeepLab2's names, which start with 'layer/'."""
  return {path: [f'layer/{key}' for key in from_deeplab2.keys(path)]
          for path in variables_by_path(layer)}


def set_layer_weights(layer, weights: dict[str, np.ndarray]) -> dict[str, str]:
  """Sets all variables of a layer; returns the name of each path. Every weight is used."""
  variables, names = variables_by_path(layer), {}
  for path, keys in layer_keys(layer).items():
    name = next(key for key in keys if key in weights)
    variables[path].assign(np.reshape(weights[name], variables[path].shape))
    names[path] = name
  assert set(names.values()) == set(weights)
  return names
