"""Classes and labels of each task."""

import numpy as np
import pytest
import tensorflow as tf

import deeplab_tf
from deeplab_tf import tasks
from deeplab_tf.data import catalog, label_maps
from deeplab_tf.tasks import Task

INFO = catalog.built_in('coco_panoptic')
# A thing, the same thing again, a crowd of it, stuff, unlabeled.
LABEL = np.array([[1 * 256 + 1, 1 * 256 + 2], [1 * 256, 92 * 256], [0, 0]], np.int32)


def test_panoptic_is_as_the_data_set_is():
  assert tasks.classes(Task.PANOPTIC, INFO) is INFO
  np.testing.assert_array_equal(
      label_maps.map_of_task(Task.PANOPTIC, tf.constant(LABEL), INFO), LABEL)


def test_semantic_has_all_classes_and_no_instances():
  info = tasks.classes(Task.SEMANTIC, INFO)
  assert info.class_ids == INFO.class_ids and not info.thing_class_ids
  assert len(info.stuff_class_ids) == 133
  np.testing.assert_array_equal(label_maps.map_of_task(Task.SEMANTIC, tf.constant(LABEL), INFO),
                                [[256, 256], [256, 92 * 256], [0, 0]])


def test_instance_has_things_alone():
  info = tasks.classes(Task.INSTANCE, INFO)
  assert info.class_ids == INFO.thing_class_ids and len(info.class_ids) == 80
  assert list(info.class_index.values()) == list(range(80))
  np.testing.assert_array_equal(label_maps.map_of_task(Task.INSTANCE, tf.constant(LABEL), INFO),
                                [[257, 258], [256, 0], [0, 0]])


def test_unlabeled_pixels_stay_so_where_the_ignore_label_is_not_zero():
  info = catalog.built_in('cityscapes_panoptic')
  void = info.void_label
  label = tf.constant([void, 11 * info.label_divisor + 3, 0], tf.int32)
  assert label_maps.map_of_task(Task.SEMANTIC, label, info).numpy().tolist() == [
      void, 11 * info.label_divisor, 0]
  assert label_maps.map_of_task(Task.INSTANCE, label, info).numpy().tolist() == [
      void, 11 * info.label_divisor + 3, void]


def test_the_task_of_an_experiment_is_panoptic_unless_it_says_otherwise():
  config = deeplab_tf.load_config('configs/shapes/max_deeplab_s.textproto')
  assert tasks.of(config) is Task.PANOPTIC
  assert tasks.of(deeplab_tf.load_config('configs/shapes/axial_resnet_s.textproto')) is (
      Task.CLASSIFICATION)


@pytest.mark.parametrize('task', ['SEMANTIC', 'INSTANCE'])
def test_a_model_refuses_what_it_does_not_do(task):
  config = deeplab_tf.load_config('configs/shapes/max_deeplab_s.textproto', [f'task: {task}'])
  with pytest.raises(deeplab_tf.ConfigError,
                     match=f'^task is {task}: model max_deeplab does PANOPTIC$'):
    deeplab_tf.build_model(config)
