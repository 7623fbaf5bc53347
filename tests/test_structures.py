"""The names of the outputs of decoder layers."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import structures


def random_layers(count):
  rng = np.random.default_rng(0)
  layers = [{'mask_logits': tf.constant(rng.normal(size=(1, 2, 2, 3))),
             'class_logits': tf.constant(rng.normal(size=(1, 3, 4)))} for _ in range(count)]
  layers[-1]['semantic_logits'] = tf.constant(rng.normal(size=(1, 2, 2, 5)))
  return layers


@pytest.mark.parametrize('count', [1, 3, 12])
def test_layers_are_read_in_the_order_of_their_numbers(count):
  layers = random_layers(count)
  outputs = structures.join_layers(layers)
  assert len(outputs) == 2 * count + 1
  # Keras sorts the names of outputs, and so does tf.nest: 10 comes before 2.
  found = structures.split_layers({name: outputs[name] for name in sorted(outputs)})
  assert len(found) == count
  for own, expected in zip(found, layers):
    assert set(own) == set(expected)
    for name, tensor in own.items():
      assert tensor is expected[name]


def test_names_are_those_of_the_interface():
  outputs = structures.join_layers(random_layers(3))
  assert set(outputs) == {
      'mask_logits_0', 'class_logits_0', 'mask_logits_1', 'class_logits_1', 'mask_logits',
      'class_logits', 'semantic_logits'}


@pytest.mark.parametrize('missing', ['mask_logits_0', 'class_logits_1', 'mask_logits'])
def test_a_layer_that_lacks_an_output_is_an_error(missing):
  outputs = structures.join_layers(random_layers(3))
  del outputs[missing]
  with pytest.raises(ValueError, match='different outputs'):
    structures.split_layers(outputs)


def test_a_missing_layer_is_an_error():
  outputs = structures.join_layers(random_layers(3))
  del outputs['mask_logits_0'], outputs['class_logits_0']
  with pytest.raises(ValueError, match='different outputs'):
    structures.split_layers(outputs)
