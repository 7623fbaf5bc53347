"""One panoptic model for three tasks: predict.py, export.py and the Segmenter."""

import json

import numpy as np
import programs
import pytest
import tensorflow as tf
import tiny
import tiny_mask2former
from PIL import Image
from pycocotools import mask as mask_lib

import deeplab_tf
from deeplab_tf import config as config_lib
from deeplab_tf.checkpoints import convert
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog

PREDICT, EXPORT = 'evaluation/predict.py', 'trainer/export.py'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A config, the prefix of a checkpoint with masks that are not flat, and an image file."""
  folder = tmp_path_factory.mktemp('tasks')
  path = tiny_mask2former.write_config(folder)
  keras.utils.set_random_seed(1)
  model = deeplab_tf.build_model(deeplab_tf.load_config(path))
  model(tf.zeros([1, 64, 96, 3]))
  for variable in model.trainable_variables:
    if variable.shape.rank > 1:
      variable.assign(3 * variable)
  prefix = convert.save_checkpoint(model, str(folder / 'ckpt-0'))
  image = folder / '000000000042.png'
  Image.fromarray(_pixels()).save(image)
  return path, prefix, image


def _pixels(height=50, width=70):
  coarse = np.random.default_rng(3).uniform(0, 255, (5, 6, 3))
  return tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8).numpy()


def _segmenter(trained, task):
  return deeplab_tf.Segmenter.from_checkpoint(deeplab_tf.load_config(trained[0]), trained[1], task)


def test_instances_of_a_panoptic_model(trained, tmp_path):
  path, prefix, image = trained
  programs.run(PREDICT, f'--config_file={path}', f'--checkpoint={prefix}', '--task=instance',
               f'--output_dir={tmp_path / "out"}', image)
  entries = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  result = _segmenter(trained, 'instance')(_pixels())
  assert len(entries) == len(result.instances) > 3
  things = {c.category_id for c in catalog.built_in('shapes').categories if c.isthing}
  for entry, instance in zip(entries, result.instances):
    assert entry['image_id'] == 42 and entry['category_id'] == instance.category_id
    assert entry['category_id'] in things
    assert entry['score'] == pytest.approx(instance.score)
    mask = mask_lib.decode(entry['segmentation'])
    np.testing.assert_array_equal(mask, instance.mask)
    assert mask.shape == (50, 70) and mask.sum() == instance.area > 0
    np.testing.assert_allclose(entry['bbox'], mask_lib.toBbox(entry['segmentation']))
    y1, x1, y2, x2 = instance.box
    assert entry['bbox'] == [x1, y1, x2 - x1, y2 - y1]
  assert Image.open(tmp_path / 'out' / '000000000042_overlay.png').size == (70, 50)
  assert result.overlay(min_score=0.0).shape == (50, 70, 3)
  np.testing.assert_array_equal(result.overlay(min_score=1.1), _pixels())


def test_classes_of_a_panoptic_model(trained, tmp_path):
  path, prefix, image = trained
  programs.run(PREDICT, f'--config_file={path}', f'--checkpoint={prefix}', '--task=semantic',
               f'--output_dir={tmp_path / "out"}', image)
  result = _segmenter(trained, 'semantic')(_pixels())
  written = np.asarray(Image.open(tmp_path / 'out' / '000000000042.png'))
  assert written.dtype == np.uint8 and written.ndim == 2
  np.testing.assert_array_equal(written, result.semantic_map)
  assert set(np.unique(written)) <= set(catalog.built_in('shapes').class_ids)
  content = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert content['images'] == [{'id': 42, 'file_name': '000000000042.png', 'height': 50,
                                'width': 70}]
  assert [c['id'] for c in content['categories']] == list(catalog.built_in('shapes').class_ids)
  assert result.overlay().shape == (50, 70, 3)


@pytest.mark.parametrize('task,outputs', [
    ('panoptic', {'panoptic_map', 'semantic_map', 'instance_map', 'segment_ids', 'segment_classes',
                  'segment_scores'}),
    ('instance', {'instance_masks', 'instance_boxes', 'instance_classes', 'instance_scores'}),
    ('semantic', {'semantic_map'})])
def test_an_export_has_the_outputs_of_one_task(trained, tmp_path, task, outputs):
  path, prefix, _ = trained
  programs.run(EXPORT, f'--config_file={path}', f'--checkpoint={prefix}', f'--task={task}',
               f'--export_dir={tmp_path / "exported"}')
  loaded = tf.saved_model.load(str(tmp_path / 'exported'))
  images = tf.constant(np.stack([_pixels(), _pixels()[::-1]]))
  found = loaded.signatures['serving_default'](images=images)
  assert set(found) == outputs
  for name, value in found.items():
    assert value.shape[0] == 2
    if name.endswith(('_map', '_masks')):
      assert value.shape[-2:] == (50, 70)
  segmenter = deeplab_tf.Segmenter.from_saved_model(str(tmp_path / 'exported'))
  one, other = segmenter(_pixels()), _segmenter(trained, task)(_pixels())
  assert type(one) is type(other)
  np.testing.assert_array_equal(one.overlay(), other.overlay())
  if task == 'instance':
    boxes, masks = found['instance_boxes'].numpy(), found['instance_masks'].numpy()
    for box, mask in zip(boxes.reshape(-1, 4), masks.reshape(-1, 50, 70)):
      y1, x1, y2, x2 = box.astype(int)
      assert mask[y1:y2, x1:x2].sum() == mask.sum()


def test_an_export_may_have_the_scores_of_all_classes(trained, tmp_path):
  path, prefix, _ = trained
  programs.run(EXPORT, f'--config_file={path}', f'--checkpoint={prefix}', '--task=semantic',
               '--semantic_scores', f'--export_dir={tmp_path / "exported"}')
  result = deeplab_tf.Segmenter.from_saved_model(str(tmp_path / 'exported'))(_pixels())
  class_ids = np.array(catalog.built_in('shapes').class_ids)
  assert result.semantic_scores.shape == (50, 70, len(class_ids))
  np.testing.assert_array_equal(class_ids[result.semantic_scores.argmax(-1)], result.semantic_map)
  assert np.ptp(result.semantic_scores) > 0.01
  line = programs.error_line(EXPORT, f'--config_file={path}', f'--checkpoint={prefix}',
                             '--semantic_scores', f'--export_dir={tmp_path / "b"}')
  assert 'only a mask2former for task SEMANTIC returns the scores' in line


def test_a_task_that_a_model_does_not_do_is_one_line(trained, tmp_path):
  path, prefix, image = trained
  semantic = tmp_path / 'semantic.textproto'
  semantic.write_text(f'base_config: "{path}"\ntask: SEMANTIC\n')
  line = programs.error_line(PREDICT, f'--config_file={semantic}', f'--checkpoint={prefix}',
                             '--task=instance', f'--output_dir={tmp_path / "a"}', image)
  assert 'trained for task SEMANTIC and cannot be used for INSTANCE' in line
  with pytest.raises(config_lib.ConfigError, match='task is INSTANCE: model max_deeplab does '
                     'PANOPTIC'):
    deeplab_tf.Segmenter.from_checkpoint(
        deeplab_tf.load_config(tiny.write_config(tmp_path)), prefix, 'instance')
  line = programs.error_line(PREDICT, f'--saved_model={tmp_path}', '--task=instance',
                             f'--output_dir={tmp_path / "b"}', image)
  assert 'export it with --task=instance' in line
