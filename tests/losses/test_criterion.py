"""What all criteria have in common: normalizers, means over images, sums over decoder layers."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import structures
from deeplab_tf.losses.criterion import CriterionResult, PerImageCriterion, losses_of_layers
from deeplab_tf.structures import ClassTargets

RNG = np.random.default_rng(0)


class Distances(PerImageCriterion):
  """Two terms of each image."""

  def image_losses(self, outputs, targets):
    errors = outputs['logits'] - tf.cast(targets.class_index, tf.float32)[:, tf.newaxis]
    losses = {'squared': 2.0 * tf.reduce_sum(errors**2, 1),
              'absolute': 0.5 * tf.reduce_sum(tf.abs(errors), 1)}
    return CriterionResult(losses, {'squared': 2.0, 'absolute': 0.5},
                           tf.add_n(list(losses.values())), {'mean': tf.reduce_mean(errors)},
                           {'errors': tf.constant(True)})


def _batch(images=6):
  logits = tf.constant(RNG.normal(size=(images, 3)), tf.float32)
  return {'logits': logits}, ClassTargets(tf.constant(RNG.integers(0, 3, images), tf.int32))


def test_losses_of_a_batch_are_means_over_its_images():
  outputs, targets = _batch()
  each, result = Distances().image_losses(outputs, targets), Distances()(outputs, targets)
  assert each.total.shape == [6] and result.total.shape == []
  np.testing.assert_allclose(result.total, np.mean(each.total), rtol=1e-6)
  for name, loss in each.losses.items():
    np.testing.assert_allclose(result.losses[name], np.mean(loss), rtol=1e-6)
  assert result.weights == each.weights and set(result.checks) == {'errors'}


def test_losses_of_parts_add_up_with_the_normalizers_of_the_whole():
  outputs, targets = _batch()
  criterion = Distances()
  whole, normalizers = criterion(outputs, targets), criterion.normalizers(targets)
  assert {name: float(x) for name, x in normalizers.items()} == {'images': 6.0}
  parts = []
  for own in (slice(0, 1), slice(1, 6)):
    part = tf.nest.map_structure(lambda x, o=own: x[o], (outputs, targets))
    parts.append(criterion(*part, normalizers).losses)
  for name, loss in whole.losses.items():
    np.testing.assert_allclose(sum(part[name] for part in parts), loss, rtol=1e-6)


@pytest.mark.parametrize('count', [1, 2, 10])
def test_the_terms_of_all_decoder_layers_are_named_and_add_up(count):
  values = RNG.normal(size=(count, 2, 4)).astype(np.float32)
  layers = [{'mask_logits': tf.constant(m), 'class_logits': tf.constant(c)} for m, c in values]
  layers[-1]['semantic_logits'] = tf.constant(1.0)
  outputs = structures.join_layers(layers)

  def layer_losses(layer):
    return {'mask_loss': 5.0 * tf.reduce_sum(layer['mask_logits']**2),
            'class_loss': 2.0 * tf.reduce_sum(tf.abs(layer['class_logits']))}

  losses, weights = losses_of_layers(layer_losses, structures.split_layers(outputs),
                                     {'mask_loss': 5.0, 'class_loss': 2.0})
  numbered = {f'{name}_{i}' for name in ('mask_loss', 'class_loss') for i in range(count - 1)}
  assert set(losses) == numbered | {'mask_loss', 'class_loss'} == set(weights)
  for i in range(count - 1):
    assert weights[f'mask_loss_{i}'] == 5.0 and weights[f'class_loss_{i}'] == 2.0
    np.testing.assert_allclose(losses[f'mask_loss_{i}'], 5 * np.sum(values[i, 0]**2), rtol=1e-5)
  np.testing.assert_allclose(losses['class_loss'], 2 * np.sum(np.abs(values[-1, 1])), rtol=1e-5)
  np.testing.assert_allclose(
      sum(losses.values()), 5 * np.sum(values[:, 0]**2) + 2 * np.sum(np.abs(values[:, 1])),
      rtol=1e-5)
