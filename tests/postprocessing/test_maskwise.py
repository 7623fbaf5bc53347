"""Maskwise post-processing equals plain numpy with all queries at full resolution."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.layers.resizing import interpolation_matrix
from deeplab_tf.postprocessing.maskwise import MaskwiseOptions, maskwise

CLASSES, QUERIES, LOGITS_SIZE, SIZE = 7, 37, (9, 11), (33, 41)
IS_THING = np.arange(CLASSES) < 4
OPTIONS = MaskwiseOptions(thing_threshold=0.6, stuff_threshold=0.4, overlap_threshold=0.5,
                          class_exponent=1.0, mask_exponent=1.0)


def _softmax(x):
  exponentials = np.exp(x - x.max(-1, keepdims=True))
  return exponentials / exponentials.sum(-1, keepdims=True)


def _paste_all(masks, classes, pixel_threshold, options, rule):
  """Returns query of each pixel, its score, whether it is covered, ranks and kept queries."""
  scores = _softmax(classes)[:, :-1]
  query_class, query_score = scores.argmax(-1), scores.max(-1)
  kept = query_score >= np.where(IS_THING[query_class], options.thing_threshold,
                                 options.stuff_threshold)
  small = _softmax(masks)
  inside = small > pixel_threshold
  mean = (small * inside).sum((0, 1)) / np.maximum(inside.sum((0, 1)), 1)
  confidence = query_score**options.class_exponent * mean**options.mask_exponent
  order = np.argsort(-confidence, kind='stable')
  rows, columns = (interpolation_matrix(*n, rule).numpy() for n in zip(LOGITS_SIZE, SIZE))
  full = _softmax(np.einsum('yh,xw,hwq->yxq', rows, columns, masks))
  query_map, filled = np.full(SIZE, order[0]), np.zeros(SIZE, bool)
  for query in order:
    mask = full[..., query] > pixel_threshold
    new = mask & ~filled
    if kept[query] and new.sum() > options.overlap_threshold * mask.sum():
      query_map[new] = query
      filled |= new
  return query_map, full.max(-1), filled, np.argsort(order) + 1, kept


def _assert_equal(masks, classes, pixel_threshold=0.3, options=OPTIONS, jit_compile=False,
                  rtol=1e-5, rule='aligned'):
  """Compares a batch and returns the covered pixels and the kept queries."""
  masks, classes = np.float32(masks), np.float32(classes)
  read = tf.function(functools.partial(
      maskwise, output_size=SIZE, is_thing=tf.constant(IS_THING),
      pixel_threshold=pixel_threshold, options=options, rule=rule), jit_compile=jit_compile,
                     autograph=False)
  maps = read(tf.constant(masks), tf.constant(classes))
  for image in range(len(masks)):
    query_map, score, filled, ranks, kept = _paste_all(masks[image], classes[image],
                                                       pixel_threshold, options, rule)
    np.testing.assert_array_equal(maps.query_map[image], query_map)
    np.testing.assert_array_equal(maps.confident[image], filled)
    np.testing.assert_array_equal(maps.query_instance[image], ranks)
    np.testing.assert_array_equal(maps.kept[image], kept)
    np.testing.assert_allclose(maps.pixel_score[image], score, rtol=rtol)
  return maps.confident.numpy(), maps.kept.numpy()


def _random(seed, queries=QUERIES, scale=4):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(2, *LOGITS_SIZE, queries)) * scale,
          rng.normal(size=(2, queries, CLASSES + 1)) * 3)


@pytest.mark.parametrize('jit_compile', [False, True])
@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('queries', [1, 16, QUERIES])
@pytest.mark.parametrize('pixel_threshold', [0.1, 0.4])
def test_some_kept(pixel_threshold, queries, seed, jit_compile):
  confident, kept = _assert_equal(*_random(seed, queries), pixel_threshold,
                                  jit_compile=jit_compile)
  if queries > 1:
    assert 0 < confident.mean() < 1 and 0.2 < kept.mean() < 1


@pytest.mark.parametrize('jit_compile', [False, True])
@pytest.mark.parametrize('threshold, all_kept', [(1.1, False), (0.0, True)])
def test_none_and_all_kept(threshold, all_kept, jit_compile):
  options = OPTIONS._replace(thing_threshold=threshold, stuff_threshold=threshold)
  confident, kept = _assert_equal(*_random(3), options=options, jit_compile=jit_compile)
  assert kept.all() == kept.any() == confident.any() == all_kept


def test_masks_are_resized_by_the_rule():
  confident, _ = _assert_equal(*_random(6), rule='half_pixel')
  assert 0 < confident.mean() < 1


def test_one_image_keeps_none_and_the_other_all():
  masks, classes = _random(4)
  classes[0] = 0
  classes[1] = np.eye(CLASSES + 1)[np.arange(QUERIES) % CLASSES] * 30
  _, kept = _assert_equal(masks, classes)
  assert not kept[0].any() and kept[1].all()


@pytest.mark.parametrize('jit_compile', [False, True])
def test_of_equal_confidence_the_lowest_query_is_first(jit_compile):
  masks, classes = _random(5)
  classes[:] = np.eye(CLASSES + 1)[1] * 30
  masks[..., 20] = masks[..., 36] = masks[..., 3]
  # The softmax of equal rows may differ in the last bit from row to row, where a kernel takes the
  # last numbers of a tensor one by one; to the power of 0 confidences are equal.
  options = OPTIONS._replace(class_exponent=0.0, mask_exponent=0.0)
  _assert_equal(masks, classes, options=options, jit_compile=jit_compile)


@pytest.mark.parametrize('overlap_threshold', [0.0, 0.5, 0.9])
def test_masks_that_overlap(overlap_threshold):
  masks, classes = _random(6, scale=0.5)
  # Three queries share the left third, and a fourth, the least confident, has all.
  masks[:, :, :4, [2, 17, 30]] += 12
  masks[..., 33] += 12
  classes[:] = np.eye(CLASSES + 1)[-1] * 30
  # No two of the dropped queries are as confident: see above.
  classes[..., 0] = np.linspace(20, 10, QUERIES)
  for query, logit in ((2, 9), (17, 8), (30, 7), (33, 6)):
    classes[:, query] = np.eye(CLASSES + 1)[query % CLASSES] * logit
  options = OPTIONS._replace(overlap_threshold=overlap_threshold, mask_exponent=0.0)
  confident, kept = _assert_equal(masks, classes, 0.1, options)
  assert kept.sum(1).tolist() == [4, 4]
  # Of the fourth about two thirds are free.
  assert confident[..., -10:].all() == (overlap_threshold < 0.9)


def test_a_dropped_query_may_be_first_in_the_order_and_covers_nothing():
  masks, classes = _random(7)
  classes[:] = np.eye(CLASSES + 1)[-1] * 30
  # A thing below its threshold is more confident than stuff above its own.
  classes[:, 5] = np.log(np.where(np.arange(CLASSES + 1) == 0, 0.55, 0.45 / CLASSES))
  classes[:, 9] = np.log(np.where(np.arange(CLASSES + 1) == 6, 0.45, 0.55 / CLASSES))
  masks[..., 5] += 8
  masks[:, :, :4, 9] += 14
  _, kept = _assert_equal(masks, classes)
  assert kept[:, 9].all() and not kept[:, 5].any()


def test_a_large_range_of_logits_neither_overflows_nor_vanishes():
  masks, classes = _random(8, scale=200)
  # The logits themselves are rounded to 6e-5.
  confident, _ = _assert_equal(masks - 500, classes, rtol=1e-4)
  assert confident.any()
