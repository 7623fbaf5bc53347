"""Instance segmentation scored in the loop equals COCOeval on the same masks."""

import contextlib
import copy
import io
import types

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import coco, cocoeval
from pycocotools import mask as mask_lib

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data.image_normalization import SYMMETRIC
from deeplab_tf.metrics.instance_average_precision import NAMES
from deeplab_tf.postprocessing.mask2former_instances import Mask2FormerInstances
from deeplab_tf.structures import EvaluationBatch, InstanceLabel, QueryOutputs
from deeplab_tf.training.instance_evaluator import InstanceEvaluator

INFO = DatasetInfo('masks', tuple(Category(i, 10 * i, f'class {i}', True, (i, i, i))
                                  for i in (1, 2, 3)), 4, 0, 256, masks_overlap=True)
SIZES = ((40, 60), (64, 50), (33, 64))  # Files of the images; their network input is 64x64.


def _rectangles(random, count):
  masks = np.zeros((64, 64, count), bool)
  for i in range(count):
    top, left = random.integers(0, 40, 2)
    masks[top:top + random.integers(8, 40), left:left + random.integers(8, 40), i] = True
  return masks


def _images():
  """Yields the label of each image with the outputs of a network that finds some of it."""
  random = np.random.default_rng(0)
  for shift, (height, width) in enumerate(SIZES):
    count = 5
    masks = _rectangles(random, count)[:height, :width]
    label = InstanceLabel(np.packbits(masks, axis=-1, bitorder='little'),
                          np.array([1, 2, 2, 3, 1], np.int32), np.arange(count) == 3,
                          (0.8 * masks.sum((0, 1))).astype(np.float32))
    full = np.zeros((64, 64, 8), bool)
    full[:height, :width, :count] = masks
    full[..., count:] = _rectangles(random, 3)
    full = np.roll(full, shift, 0)
    logits = np.where(full, 4.0, -4.0) + random.normal(0, 1.0, full.shape)
    classes = random.normal(0, 1, (8, 4))
    classes[np.arange(count), label.class_ids - 1] += 3
    yield label, QueryOutputs(classes.astype(np.float32), logits.astype(np.float32))


def _batch(labels, numbers):
  height, width = np.max([SIZES[i] for i in numbers], 0)

  def padded(x, shape, value=0):
    return np.pad(x, [(0, n - m) for n, m in zip(shape, x.shape)], constant_values=value)

  stacked = InstanceLabel(*(tf.stack(x) for x in zip(*[
      (padded(each.mask_bits, (height, width, 2)), padded(each.class_ids, (7,), -1),
       padded(each.is_crowd, (7,)), padded(each.areas, (7,))) for each in labels])))
  sizes = tf.constant([SIZES[i] for i in numbers])
  return EvaluationBatch(tf.zeros([len(numbers), 64, 64, 3]), sizes, sizes, stacked,
                         tf.constant([f'image {i}' for i in numbers]))


def _evaluator(batches, outputs, samples):
  rest = iter(outputs)
  return InstanceEvaluator(
      dataset_info=INFO, normalization=SYMMETRIC, strategy=tf.distribute.get_strategy(),
      predict=lambda images: next(rest), batches=lambda: batches,
      progress=lambda steps: contextlib.nullcontext(
          types.SimpleNamespace(update=lambda step: None)),
      on_sample=lambda position, sample: samples.append(sample), num_images=1,
      at_full_size=Mask2FormerInstances(INFO, 15).at_full_size)


@pytest.fixture(name='evaluated', scope='module')
def fixture_evaluated():
  """The scores of an evaluation in batches of two, and its samples."""
  labels, outputs = zip(*_images())
  batches = [_batch(labels[:2], [0, 1]), _batch(labels[2:], [2])]
  stacked = [QueryOutputs(*(tf.stack(x) for x in zip(*part))) for part in (outputs[:2],
                                                                           outputs[2:])]
  samples = []
  evaluator = _evaluator(batches, stacked, samples)
  scalars = evaluator.evaluate(-1)
  return evaluator, scalars, labels, samples


def _cocoeval(labels, samples):
  """Returns the scores of COCOeval for the masks of the samples."""
  truths, found = [], []
  for i, (label, sample) in enumerate(zip(labels, samples)):
    masks = np.unpackbits(label.mask_bits, axis=-1, bitorder='little')
    for row, class_id in enumerate(label.class_ids.tolist()):
      truths.append({
          'id': len(truths) + 1, 'image_id': i, 'category_id': 10 * class_id,
          'segmentation': mask_lib.encode(np.asfortranarray(masks[..., row])),
          'area': float(label.areas[row]), 'iscrowd': int(label.is_crowd[row])})
    prediction = sample.prediction
    found += [{'image_id': i, 'category_id': 10 * class_id, 'segmentation': runs, 'score': score}
              for class_id, runs, score in zip(prediction.class_ids, prediction.masks,
                                               prediction.scores)]
  with contextlib.redirect_stdout(io.StringIO()):
    dataset = coco.COCO()
    dataset.dataset = {
        'images': [{'id': i, 'height': h, 'width': w} for i, (h, w) in enumerate(SIZES)],
        'annotations': truths, 'categories': [{'id': c.category_id} for c in INFO.categories]}
    dataset.createIndex()
    evaluation = cocoeval.COCOeval(dataset, dataset.loadRes(copy.deepcopy(found)), 'segm')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  return dict(zip(NAMES, evaluation.stats))


def test_scores_equal_cocoeval(evaluated):
  evaluator, scalars, labels, samples = evaluated
  expected = _cocoeval(labels, samples)
  for name in NAMES:
    if expected[name] < 0:
      assert name not in scalars
    else:
      assert scalars[name] == pytest.approx(expected[name], abs=1e-9), name
  assert 0.1 < scalars['AP'] < 0.95
  assert set(scalars) <= set(evaluator.scores)


def test_boundaries_are_harder_than_masks(evaluated):
  _, scalars, _, _ = evaluated
  assert 0 < scalars['boundary/AP'] < scalars['AP']


def test_the_table_names_every_score_and_class(evaluated):
  text = evaluated[0].format_result()
  for word in (*NAMES, 'boundary', *(c.name for c in INFO.categories)):
    assert word in text


def test_samples_have_the_size_of_the_file_and_few_have_pixels(evaluated):
  samples = evaluated[3]
  assert [sample.name for sample in samples] == ['image 0', 'image 1', 'image 2']
  for sample, size in zip(samples, SIZES):
    assert tuple(sample.ground_truth.size) == tuple(sample.prediction.size) == size
    assert sample.ground_truth.is_crowd == [False, False, False, True, False]
  assert samples[0].image.shape == (40, 60, 3) and samples[1].image is None
