"""Class maps of Panoptic-DeepLab's semantic branch."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import catalog
from deeplab_tf.postprocessing.panoptic_deeplab import (
  PanopticDeepLabPostprocessor,
  PostprocessingOptions,
)
from deeplab_tf.postprocessing.panoptic_deeplab_semantic import PanopticDeepLabSemantic

INFO = catalog.built_in('shapes')


def _outputs(shape=(2, 9, 12), dtype=tf.float32):
  logits = np.random.default_rng(0).normal(size=(*shape, INFO.num_classes)) * 3
  return {'semantic_logits': tf.constant(logits, dtype)}


def _aligned(logits, size):
  """Returns bilinearly resized maps with aligned corners, [*size, channels]."""
  for axis, length in enumerate(size):
    position = np.linspace(0, logits.shape[axis] - 1, length)
    before = np.minimum(position.astype(int), logits.shape[axis] - 2)
    share = (position - before).reshape([-1 if i == axis else 1 for i in range(3)])
    logits = (np.take(logits, before, axis) * (1 - share)
              + np.take(logits, before + 1, axis) * share)
  return logits


@pytest.mark.parametrize('size', [(33, 45), (9, 12), (34, 41)])
def test_it_is_the_argmax_of_the_resized_logits(size):
  outputs = _outputs()
  found = PanopticDeepLabSemantic()(outputs, size).semantic_map
  assert found.dtype == tf.int32
  for logits, own in zip(outputs['semantic_logits'].numpy(), found.numpy()):
    resized = _aligned(logits.astype(np.float64), size)
    first, second = np.sort(resized, axis=-1)[..., :-3:-1].transpose(2, 0, 1)
    sure = first - second > 1e-4
    assert sure.mean() > 0.95
    np.testing.assert_array_equal(own[sure], resized.argmax(axis=-1)[sure])


def test_it_is_the_semantic_map_of_the_panoptic_postprocessing():
  outputs = _outputs(dtype=tf.bfloat16)
  panoptic = PanopticDeepLabPostprocessor(INFO, PostprocessingOptions())(outputs, (33, 45))
  np.testing.assert_array_equal(PanopticDeepLabSemantic()(outputs, (33, 45)).semantic_map,
                                panoptic.semantic_map)


def test_shapes_are_static_where_they_are_known_and_free_where_not():
  run = tf.function(lambda x, size: PanopticDeepLabSemantic()({'semantic_logits': x}, size),
                    input_signature=[tf.TensorSpec([None, None, None, INFO.num_classes]),
                                     [tf.TensorSpec([], tf.int32)] * 2], autograph=False)
  outputs = _outputs()
  expected = PanopticDeepLabSemantic()(outputs, (20, 30)).semantic_map
  found = run(outputs['semantic_logits'], [tf.constant(20), tf.constant(30)]).semantic_map
  np.testing.assert_array_equal(found, expected)
  compiled = tf.function(lambda x: PanopticDeepLabSemantic()(x, (20, 30)), jit_compile=True,
                         autograph=False)(outputs)
  assert compiled.semantic_map.shape == [2, 20, 30]
  assert np.mean(compiled.semantic_map == expected) > 0.99
