"""Fills layers with the weights of a parity case and reads what was recorded."""

import json

import numpy as np
import shared

from deeplab_tf.checkpoints import from_deeplab2
from deeplab_tf.checkpoints.paths import variables_by_path


def recipe_weights(description: dict) -> dict[str, np.ndarray]:
  """Returns the case's weights by DeepLab2's names."""
  recipe = shared.recipe()
  prefix = description.get('weight_name_prefix', '')
  return {w['key']: recipe.weight(prefix + w['key'], w['shape'], w['role'], w.get('fan_in'))
          for w in description['weights']}


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
