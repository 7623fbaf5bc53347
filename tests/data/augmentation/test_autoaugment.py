"""AutoAugment: operations equal DeepLab2's, and the choice is a function of the seed."""

import json
import re

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.data.augmentation import autoaugment


@pytest.mark.parity
def test_every_operation_equals_deeplab2():
  cases = np.load(shared.path('parity', 'deeplab2', 'preprocessing', 'autoaugment.npz'))
  image = tf.constant(cases['image'])
  names = [name for name in cases if name != 'image']
  assert len(names) > 30
  for name in names:
    operation, _, level = name.partition('|')
    result = autoaugment.apply_operation(image, operation, float(level or 0)).numpy()
    expected = cases[name]
    if operation == 'Sharpness':
      unsure = _rounded_either_way(cases['image'])
      assert np.abs(result[unsure] - expected[unsure].astype(int)).max() <= 1, name
      result, expected = result[~unsure], expected[~unsure]
    np.testing.assert_array_equal(result, expected, err_msg=name)


def _rounded_either_way(image):
  """Pixels whose smoothing is a whole number, in exact arithmetic.

  The sum of nine products with n / 13 in float32 may come out just below, and is rounded down: it
  depends on whether the processor's kernel rounds products before it adds them. The recorded
  results are those of one kind of kernels.
  """
  padded = np.pad(image.astype(int), [(1, 1), (1, 1), (0, 0)])
  height, width = image.shape[:2]
  total = 4 * image.astype(int) + sum(
      padded[i:i + height, j:j + width] for i in range(3) for j in range(3))
  return total % 13 == 0


@pytest.mark.parity
def test_policies_equal_deeplab2():
  text = shared.path('parity', 'deeplab2', 'preprocessing', 'autoaugment.json').read_text()
  policies = json.loads(text)
  assert set(policies) == set(autoaugment.POLICIES)
  for name, policy in policies.items():
    ours = [[list(operation) for operation in pair] for pair in autoaugment.POLICIES[name]]
    assert ours == policy


@pytest.mark.parity
def test_the_policies_of_all_configs_of_deeplab2_are_there():
  texts = [path.read_text() for path in
           shared.path('parity', 'deeplab2', 'configs').rglob('*.textproto')]
  names = set(re.findall(r'autoaugment_policy_name:\s*"([^"]*)"', '\n'.join(texts)))
  assert names and names <= set(autoaugment.POLICIES)


def test_result_is_a_function_of_the_seed_and_varies_with_it():
  image = tf.constant(np.random.default_rng(0).integers(0, 256, (33, 41, 3)), tf.uint8)
  policy = autoaugment.POLICIES['simple_classification_policy']
  run = tf.function(lambda seed: autoaugment.distort(image, policy, seed))
  results = [run(tf.constant([1, i])).numpy() for i in range(30)]
  again = [run(tf.constant([1, i])).numpy() for i in range(30)]
  for one, two in zip(results, again):
    np.testing.assert_array_equal(one, two)
  changed = sum(not np.array_equal(result, image) for result in results)
  assert 5 <= changed <= 28
  assert len({result.tobytes() for result in results}) >= 4


@pytest.mark.parametrize('name', ['Equalize', 'AutoContrast'])
def test_uniform_images_stay(name):
  image = tf.fill([5, 7, 3], tf.constant(90, tf.uint8))
  np.testing.assert_array_equal(autoaugment.apply_operation(image, name, 0), image)
