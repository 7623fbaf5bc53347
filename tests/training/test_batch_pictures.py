"""Targets can be turned back into the label map that they come from."""

import numpy as np
import tensorflow as tf

from deeplab_tf.data import catalog, shapes
from deeplab_tf.data import targets as targets_lib
from deeplab_tf.training.batch_pictures import label_map


def test_the_label_map_of_targets_has_the_segments_of_the_annotation():
  info = catalog.built_in('shapes')
  for index in range(10):
    label = shapes.generate('train', index)[1]
    made = targets_lib.mask_targets(tf.constant(label), info, max_things=16)
    actual = label_map(tf.nest.map_structure(lambda x: x.numpy(), made), info)
    void = (label == 0) | np.asarray(targets_lib.is_crowd(tf.constant(label), info))
    np.testing.assert_array_equal(actual == info.void_label, void)
    np.testing.assert_array_equal((actual // 256)[~void], (label // 256)[~void])
    pairs = set(zip(label[~void], actual[~void]))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
