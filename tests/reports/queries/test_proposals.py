"""Proposals of decoder layers against pycocotools and plain numpy."""

import contextlib
import io

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import coco, cocoeval
from pycocotools import mask as mask_lib

from deeplab_tf import mask_values
from deeplab_tf.data import catalog, label_maps
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.postprocessing.full_size import FullSize
from deeplab_tf.reports.queries import proposal_section, proposals, query_figures
from deeplab_tf.structures import InstanceLabel

INFO = catalog.built_in('shapes')
THING, STUFF = INFO.thing_class_ids[:2], INFO.stuff_class_ids[0]


@pytest.mark.parametrize('predictions,expected', [
    (10, [0, 3, 6, 9]), (7, [0, 2, 4, 6]), (4, [0, 1, 2, 3]), (3, [0, 1, 2]), (2, [0, 1])])
def test_layers_are_spread_evenly_from_first_to_last(predictions, expected):
  assert proposals.measured_layers(predictions) == expected


@pytest.mark.parametrize('predictions,expected', [(9, [3, 6, 9]), (6, [2, 4, 6]), (2, [1, 2])])
def test_layers_have_the_same_numbers_without_a_prediction_before_the_first(predictions, expected):
  assert proposals.measured_layers(predictions, first=1) == expected


def _outputs(queries, seed=0):
  rng = np.random.default_rng(seed)
  return {'mask_logits': tf.constant(rng.normal(size=(1, 6, 7, queries)) * 4, tf.float32),
          'class_logits': tf.constant(rng.normal(size=(1, queries, 5)), tf.float32)}


@pytest.mark.parametrize('masks_compete', [False, True])
def test_masks_are_made_at_the_size_of_the_file(masks_compete):
  outputs, queries = _outputs(11), 11
  # More rows than one band, and a last band that is not full.
  size = FullSize((24, 28), (20, 28), (150, 90), 'half_pixel')
  found = proposals.propose(outputs, size, 'half_pixel', masks_compete)
  logits = resize_bilinear(outputs['mask_logits'], (24, 28), 'half_pixel')[:, :20]
  logits = resize_bilinear(logits, (150, 90), 'half_pixel')[0].numpy().astype(np.float64)
  probabilities = 1 / (1 + np.exp(-logits))
  if masks_compete:
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  masks = probabilities > 0.5
  sure = np.abs(probabilities - 0.5) > 1e-5
  bits = mask_values.unpack(found.bits, queries).numpy()
  assert 0.01 < masks.mean() < 0.99
  np.testing.assert_array_equal(bits[sure], masks[sure])
  classes = np.exp(outputs['class_logits'][0].numpy())
  best = (classes[:, :-1] / classes.sum(axis=-1, keepdims=True)).max(axis=-1)
  quality = (probabilities * masks).sum((0, 1)) / np.maximum(masks.sum((0, 1)), 1)
  np.testing.assert_allclose(found.scores, best * quality, rtol=1e-4)


def _images(count=4, queries=130):
  """Returns proposals and panoptic maps, with crowds, of images of several sizes."""
  rng = np.random.default_rng(1)
  for i in range(count):
    size = (60 + 50 * i, 260 - 40 * i)
    rows, columns = np.indices(size)
    label = np.full(size, STUFF * INFO.label_divisor, np.int32)
    masks = np.zeros((*size, queries), bool)
    for query in range(queries - 1):  # The last one stays empty.
      y, x, side = rng.integers(size[0]), rng.integers(size[1]), rng.integers(3, 75)
      inside = (abs(rows - y) < side) & (abs(columns - x) < side)
      masks[..., query] = inside
      if query < 12:
        number = 0 if query == 5 else query + 1
        shifted = np.roll(inside, rng.integers(-3, 4), axis=1)
        label[shifted] = THING[query % 2] * INFO.label_divisor + number
    scores = rng.permutation(queries).astype(np.float32) / queries
    yield proposals.Proposals(mask_values.pack(masks).numpy(), scores), masks, label


def _reference(images):
  """Returns the scores of pycocotools without categories, from masks and panoptic maps."""
  annotations, detections = [], []
  for image_id, (found, masks, label) in enumerate(images, 1):
    for value in np.unique(label).tolist():
      if value // INFO.label_divisor in INFO.thing_class_ids:
        annotations.append({
            'id': len(annotations) + 1, 'image_id': image_id, 'area': int((label == value).sum()),
            'category_id': value // INFO.label_divisor,
            'iscrowd': int(value % INFO.label_divisor == 0),
            'segmentation': mask_lib.encode(np.asfortranarray(label == value))})
    detections += [{'image_id': image_id, 'category_id': THING[0], 'score': float(score),
                    'segmentation': mask_lib.encode(np.asfortranarray(masks[..., query]))}
                   for query, score in enumerate(found.scores)]
  with contextlib.redirect_stdout(io.StringIO()):
    truth = coco.COCO()
    truth.dataset = {'images': [
        {'id': i, 'height': label.shape[0], 'width': label.shape[1]}
        for i, (_, _, label) in enumerate(images, 1)],
                     'categories': [{'id': c} for c in THING], 'annotations': annotations}
    truth.createIndex()
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(detections), 'segm')
    evaluation.params.useCats = 0
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  return evaluation.stats


def test_recall_equals_that_of_pycocotools_without_categories():
  images = list(_images())
  assert any((label % INFO.label_divisor == 0)[label // INFO.label_divisor != STUFF].any()
             for _, _, label in images), 'a crowd is among the things'
  survey = proposals.ProposalSurvey(2)
  for found, _, label in images:
    # The proposals of the other layer are those without the first eight queries.
    fewer = proposals.Proposals(found.bits[..., 1:], found.scores[8:])
    survey.update('image', np.zeros((20, 30, 3), np.uint8), {0: fewer, 3: found},
                  label_maps.annotations(label, INFO))
  results, expected = survey.results(), _reference(images)
  assert list(results) == [0, 3]
  for name, index in (('AR100', 8), ('ARs', 9), ('ARm', 10), ('ARl', 11)):
    assert 0 < expected[index] < 1
    np.testing.assert_allclose(results[3][name], expected[index], rtol=1e-12)
  assert 0.2 < results[0]['AR100'] < results[3]['AR100'] < 1


def test_examples_show_the_best_proposal_for_each_of_the_largest_things():
  images = list(_images(2))
  survey = proposals.ProposalSurvey(1)
  for i, (found, _, label) in enumerate(images):
    survey.update(f'image {i}', np.zeros((20, 30, 3), np.uint8), {0: found},
                  label_maps.annotations(label, INFO))
  (example,) = survey.examples
  _, masks, label = images[0]
  assert example.name == 'image 0' and example.image.shape[:2] == label.shape
  areas = [mask.sum() for mask in example.masks]
  assert len(areas) == 4 and areas == sorted(areas, reverse=True)
  for class_id, thing, match in zip(example.class_ids, example.masks, example.matches[0]):
    assert (label[thing] // INFO.label_divisor == class_id).all()
    assert np.unique(label[thing]).size == 1 and label[thing][0] % INFO.label_divisor > 0
    ious = ((masks & thing[..., None]).sum((0, 1)) / (masks | thing[..., None]).sum((0, 1)))
    assert match.query == ious.argmax() and match.iou == pytest.approx(ious.max())
    np.testing.assert_array_equal(match.mask, masks[..., match.query])


def test_things_of_instance_labels_are_those_of_the_data():
  rng = np.random.default_rng(2)
  masks = rng.uniform(size=(9, 7, 3)) < 0.5
  label = InstanceLabel(mask_values.pack(masks), tf.constant([THING[1], THING[0], -1]),
                        tf.constant([True, False, False]), tf.constant([30.0, 12.5, 0.0]))
  found = label_maps.annotations(label, INFO)
  # The last one is padding.
  assert [(thing['category_id'], thing['iscrowd'], thing['area']) for thing in found] == [
      (THING[1], 1, 30.0), (THING[0], 0, 12.5)]
  for thing, mask in zip(found, np.moveaxis(masks, -1, 0)):
    np.testing.assert_array_equal(mask_lib.decode(thing['segmentation']), mask)


def test_large_examples_are_shown_smaller():
  label = np.zeros((2100, 30), np.int32)
  label[:60] = THING[0] * INFO.label_divisor + 1
  bits = mask_values.pack(label[..., None] > 0).numpy()
  survey = proposals.ProposalSurvey(1)
  survey.update('tall', np.zeros((70, 10, 3), np.uint8),
                {0: proposals.Proposals(bits, np.ones(1, np.float32))},
                label_maps.annotations(label, INFO))
  (example,) = survey.examples
  shapes = {example.image.shape[:2], example.masks[0].shape, example.matches[0][0].mask.shape}
  assert shapes == {(700, 10)} and example.matches[0][0].iou == 1
  assert example.masks[0].sum() == 20 * 10


def test_data_without_things_are_left_out_of_the_page(tmp_path):
  survey, numbers = proposals.ProposalSurvey(2), {}
  label = np.full((8, 8), STUFF * INFO.label_divisor, np.int32)
  survey.update('stuff', np.zeros((8, 8, 3), np.uint8),
                {0: proposals.Proposals(np.ones((8, 8, 1), np.uint8), np.ones(1, np.float32))},
                label_maps.annotations(label, INFO))
  section = proposal_section.proposals(str(tmp_path), survey, INFO, numbers)
  assert 'no things' in section.notices[0] and not section.sheets and not numbers


def test_a_recall_of_zero_is_drawn(tmp_path):
  query_figures.proposal_recall(str(tmp_path / 'bars.png'), [0, 1], [0.0, 0.0])
  assert (tmp_path / 'bars.png').stat().st_size > 1000
