"""Sets the weights of backbones by the names and in the layout of Mask2Former's PyTorch code."""

import json
import re

import numpy as np
import shared

from deeplab_tf.layers.variable_paths import variables_by_path

# Applied one after the other, to the names of ResNets and Swins alike.
_RENAMED = (
    (r'^stem\.conv1\.', 'stem.'),
    (r'^res(\d)\.', lambda match: f'stages.{int(match[1]) - 2}.'),
    (r'^patch_embed\.proj\.', 'patch_embedding.projection.'),
    (r'^patch_embed\.', 'patch_embedding.'),
    (r'^layers\.', 'stages.'),
    (r'^norm(\d)\.', r'output_norms.\1.'),
    (r'\battn\.relative_position_bias_table$', 'attention.position_bias'),
    (r'\battn\.proj\.', 'attention.projection.'),
    (r'\battn\.', 'attention.'),
    (r'\bdownsample\.', 'merging.'),
    (r'(norm\d?|norms\.\d)\.weight$', r'\1.gamma'),
    (r'(norm\d?|norms\.\d)\.bias$', r'\1.beta'),
    (r'\brunning_mean$', 'moving_mean'),
    (r'\brunning_var$', 'moving_variance'),
    (r'\bweight$', 'kernel'),
)
_CONSTANTS = ('relative_position_index', 'num_batches_tracked')


def set_weights(layer, weights: dict[str, np.ndarray]) -> None:
  """Sets all variables of a layer. Every weight is used, except for constants."""
  variables, found = variables_by_path(layer), set()
  for name, value in weights.items():
    if name.endswith(_CONSTANTS):
      continue
    path = name
    for pattern, replacement in _RENAMED:
      path = re.sub(pattern, replacement, path)
    path = path.replace('.', '/')
    if path.endswith('kernel'):
      value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    assert variables[path].shape == value.shape, (name, path)
    variables[path].assign(value)
    found.add(path)
  assert found == set(variables)


def described(variant: str) -> dict[str, dict]:
  """Returns the description of each weight of a variant's backbone, by its name there."""
  text = shared.path('parity', 'mask2former', f'weights_{variant}.json').read_text()
  return {w['name'].removeprefix('backbone.'): w for w in json.loads(text)['weights']
          if w['name'].startswith('backbone.') and not w['name'].endswith(_CONSTANTS)}


def recipe_weights(variant: str) -> dict[str, np.ndarray]:
  """Returns the weights of a recorded network's backbone, by their names there."""
  recipe = shared.recipe()
  return {name: recipe.weight(w.get('seed', w['name']), w['shape'], w['role'], w.get('fan_in'))
          for name, w in described(variant).items()}


def operation(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Returns the arrays and the weights of a recorded operation."""
  archive = np.load(shared.path('parity', 'mask2former', 'ops.npz'))
  arrays = {key.removeprefix(f'{name}/'): archive[key] for key in archive.files
            if key.startswith(f'{name}/')}
  weights = {key.removeprefix('w:'): arrays.pop(key) for key in list(arrays)
             if key.startswith('w:')}
  return arrays, weights


def assert_near(actual, expected, what: str = '', tolerance: float = 1e-5) -> None:
  """Compares tensors relative to the largest value.

  The default is a hundred roundings of float32, which sums in another order take in some tens of
  layers.
  """
  actual = np.asarray(actual)
  assert actual.shape == expected.shape, what
  error = np.abs(actual - expected).max() / np.abs(expected).max()
  assert error < tolerance, f'{what}: {error:.1e}'


def assert_features_are_recorded(backbone, variant: str, case: str) -> None:
  """Compares the features of a backbone, with the recorded weights, with the recorded features."""
  folder = shared.path('parity', 'mask2former')
  description = json.loads((folder / f'outputs_{variant}.json').read_text())[case]
  recorded = np.load(folder / f'outputs_{variant}.npz')
  _, height, width, _ = description['input_shape_nhwc']
  images = np.stack([shared.recipe().image(name, height, width)
                     for name in description['image_names']])
  set_weights(backbone, recipe_weights(variant))
  features = backbone(images)
  assert list(features) == ['res2', 'res3', 'res4', 'res5']
  step = description['channel_step_of_features']
  for name, feature in features.items():
    assert_near(feature[..., ::step], recorded[f'{case}/{name}'].transpose(0, 2, 3, 1), name)
