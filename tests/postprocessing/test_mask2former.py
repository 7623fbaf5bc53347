"""Mask2Former's semantic and instance inference: its recorded ones, and plain numpy."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf
from pycocotools import mask as mask_lib

from deeplab_tf.layers import resizing
from deeplab_tf.postprocessing import mask2former
from deeplab_tf.postprocessing.full_size import FullSize


def _softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.fixture(scope='module')
def recorded():
  folder = shared.path('parity', 'evaluation', 'panoptic_model')
  content = {name: dict(np.load(folder / f'{name}.npz'))
             for name in ('model_outputs', 'reference_maps')}
  for name in ('classes', 'reference_instance_results'):
    content[name] = json.loads((folder / f'{name}.json').read_text())
  return content


def _inputs(recorded, image_id):
  outputs = recorded['model_outputs']
  masks = outputs[f'mask_logits_x8_{image_id}'].astype(np.float32) / 8
  return outputs[f'class_logits_{image_id}'], masks.transpose(1, 2, 0)


def _ids(recorded):
  return [key[len('semantic_'):] for key in recorded['reference_maps']
          if key.startswith('semantic_')]


@pytest.mark.parity
def test_the_semantic_map_is_mask2formers(recorded):
  for image_id in _ids(recorded):
    class_logits, mask_logits = _inputs(recorded, image_id)
    found = mask2former.semantic_inference(class_logits, mask_logits, masks_compete=False)
    np.testing.assert_array_equal(found.semantic_map,
                                  recorded['reference_maps'][f'semantic_{image_id}'])


@pytest.mark.parity
def test_instances_are_mask2formers(recorded):
  ids, is_thing = recorded['classes']['dataset_ids'], recorded['classes']['isthing']
  for image_id in _ids(recorded):
    class_logits, mask_logits = _inputs(recorded, image_id)
    found = mask2former.semantic_inference(class_logits, mask_logits, masks_compete=False)
    instances = mask2former.instance_inference(class_logits, found.quality,
                                               [bool(thing) for thing in is_thing])
    own = sorted((ids[c], found.mask(q).tobytes(), float(score))
                 for q, c, score in zip(*(x.numpy() for x in instances)))
    reference = sorted(
        (r['category_id'], mask_lib.decode(r['segmentation']).astype(bool).tobytes(), r['score'])
        for r in recorded['reference_instance_results'] if str(r['image_id']) == image_id)
    assert [entry[:2] for entry in own] == [entry[:2] for entry in reference]
    assert [entry[2] for entry in own] == pytest.approx([entry[2] for entry in reference],
                                                        abs=1e-5)


def _resized(x, size, rule):
  return resizing.resize_bilinear(tf.constant(x)[None], size, rule)[0].numpy()


@pytest.mark.parametrize('masks_compete', [True, False])
@pytest.mark.parametrize('rule, image_rule', [
    ('aligned', 'aligned'), ('half_pixel', 'half_pixel'), ('half_pixel', 'aligned')])
def test_bands_of_rows_change_nothing_and_padding_is_cut_away(masks_compete, rule, image_rule):
  rng = np.random.default_rng(0)
  class_logits = rng.normal(size=(6, 4)).astype(np.float32)
  mask_logits = 4 * rng.normal(size=(9, 7, 6)).astype(np.float32)
  size = FullSize((65, 49), (61, 33), (150, 70), image_rule)
  found = mask2former.semantic_inference(class_logits, mask_logits, masks_compete, size, rule)
  full = _resized(mask_logits, (65, 49), rule)[:61, :33]
  full = _resized(full, (150, 70), image_rule)
  probabilities = _softmax(full) if masks_compete else 1 / (1 + np.exp(-full))
  masks = probabilities > 0.5
  assert masks.any() and not masks.any(-1).all()
  own = np.stack([found.mask(query) for query in range(6)], -1)
  assert np.mean(own == masks) > 0.9999
  scores = np.einsum('yxq,qc->yxc', probabilities, _softmax(class_logits)[:, :-1])
  assert np.mean(found.semantic_map.numpy() == scores.argmax(-1)) > 0.9999
  expected = (probabilities * masks).sum((0, 1)) / (masks.sum((0, 1)) + 1e-6)
  np.testing.assert_allclose(found.quality, expected, atol=1e-4)


def test_corners_are_aligned_unless_another_rule_is_given():
  logits = np.random.default_rng(0).normal(size=(9, 7, 6)).astype(np.float32)
  size = FullSize((65, 49), (61, 33), (150, 70))
  default, aligned, other = (
      mask2former.semantic_inference(np.zeros((6, 4), np.float32), logits, False, size, *rule)
      for rule in ((), ('aligned',), ('half_pixel',)))
  np.testing.assert_array_equal(default.quality, aligned.quality)
  assert np.abs(default.quality - other.quality).max() > 1e-4


def test_stuff_is_dropped_after_the_best_pairs_are_chosen():
  class_logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]], np.float32))
  found = mask2former.instance_inference(class_logits, np.array([0.5, 1], np.float32),
                                         is_thing=[False, True], count=2)
  assert found.query.numpy().tolist() == [1]
  assert found.class_index.numpy().tolist() == [1]
  assert found.score.numpy() == pytest.approx([0.6])


def test_an_empty_mask_scores_nothing():
  found = mask2former.semantic_inference(
      np.zeros((2, 3), np.float32), np.full((4, 4, 2), -9, np.float32), masks_compete=False)
  assert not found.packed.numpy().any()
  assert found.quality.numpy().tolist() == [0, 0]
