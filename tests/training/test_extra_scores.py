"""Scores besides panoptic quality, against Mask2Former's recorded ones and in a real evaluation."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf
import tiny_runs
import training_runs

from deeplab_tf import config as config_lib
from deeplab_tf import models
from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import catalog
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.metrics.panoptic_quality import PanopticQuality
from deeplab_tf.models import panoptic_deeplab
from deeplab_tf.structures import PanopticPrediction, QueryOutputs
from deeplab_tf.training import extra_scores
from deeplab_tf.training.extra_scores import ScoredImage

DIVISOR = 1000
ALL = 'MIOU_PAN', 'AP_TH_PAN', 'PANOPTIC_MAP_MIOU', 'PANOPTIC_MAP_AP', 'BOUNDARY_PQ'


class Recorded:
  """The recorded outputs of a mask model as scored images."""

  def __init__(self):
    self.folder = shared.path('parity', 'evaluation', 'panoptic_model')
    self.expected = json.loads((self.folder / 'expected.json').read_text())
    self.truth = coco_panoptic.load_ground_truth(self.folder / 'panoptic_gt.json')
    order = json.loads((self.folder / 'classes.json').read_text())['dataset_ids']
    by_id = {c.category_id: c for c in self.truth.categories}
    # Class indices are positions in that order.
    self.info = DatasetInfo('recorded', tuple(
        Category(index, c, by_id[c].name, by_id[c].isthing, (0, 0, 0))
        for index, c in enumerate(order)), len(order), 255, DIVISOR)
    self._class_of = {c: index for index, c in enumerate(order)}
    self._outputs = np.load(self.folder / 'model_outputs.npz')
    self._maps = np.load(self.folder / 'reference_maps.npz')

  def images(self, kind='a'):
    """Yields the ScoredImages with the panoptic maps of one pair of thresholds."""
    segments = {entry['image_id']: entry['segments_info']
                for entry in json.loads(str(self._maps[f'segments_{kind}']))}
    for annotation in self.truth.annotations:
      image_id = annotation.image_id
      png = coco_panoptic.read_panoptic_png(
          self.folder / 'panoptic_gt' / annotation.file_name)
      truth = self._label_map(png, [(s.id, s.category_id, s.iscrowd) for s in annotation.segments])
      guess = self._label_map(self._maps[f'panoptic_{kind}_{image_id}'], [
          (s['id'], s['category_id'], False) for s in segments[image_id]])
      masks = self._outputs[f'mask_logits_x8_{image_id}'].astype(np.float32) / 8
      queries = QueryOutputs(tf.constant(self._outputs[f'class_logits_{image_id}'])[None],
                             tf.constant(masks.transpose(1, 2, 0))[None])
      maps = tf.constant(guess)[None]
      yield ScoredImage(f'{image_id:012d}', truth,
                        PanopticPrediction(panoptic_map=maps, semantic_map=maps, instance_map=maps,
                                           segment_ids=maps, segment_classes=maps,
                                           segment_scores=maps), queries)

  def _label_map(self, ids, segments):
    label = np.full(ids.shape, self.info.void_label, np.int32)
    for number, (segment_id, category, iscrowd) in enumerate(segments, start=1):
      instance = 0 if iscrowd or not self.info.by_category_id[category].isthing else number
      label[ids == segment_id] = self._class_of[category] * DIVISOR + instance
    return label

  def score(self, score, kind='a'):
    """Returns the result over all images."""
    metric = score.new_metric()
    for image in self.images(kind):
      score.update(metric, image)
    return metric.result()


@pytest.fixture(scope='module')
def recorded():
  return Recorded()


@pytest.mark.parity
def test_miou_pan_is_mask2formers(recorded):
  result = recorded.score(extra_scores.QueryMeanIoU(recorded.info))
  expected = recorded.expected['semantic_marginal']['miou']
  assert result['miou'] == pytest.approx(expected['classes_in_gt'], abs=1e-9)
  assert list(result['per_class'].values()) == pytest.approx(expected['per_class'], abs=1e-9)


@pytest.mark.parity
def test_ap_th_pan_is_mask2formers(recorded):
  annotations = extra_scores.InstanceAnnotations(recorded.folder / 'instances_gt.json',
                                                 recorded.info)
  result = recorded.score(extra_scores.QueryAveragePrecision(recorded.info, annotations))
  stats = recorded.expected['instance_top100']['stats']
  names = 'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl'
  found = [-1 if result[name] is None else result[name] for name in names]
  assert found == pytest.approx(stats, abs=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize('kind', ['a', 'b', 'c'])
def test_miou_of_the_panoptic_map(recorded, kind):
  result = recorded.score(extra_scores.MapMeanIoU(recorded.info), kind)
  expected = recorded.expected[f'panoptic_{kind}']['miou_of_the_panoptic_map']
  assert result['miou'] == pytest.approx(expected['classes_in_gt'], abs=1e-9)


@pytest.mark.parity
@pytest.mark.parametrize('kind', ['a', 'b', 'c'])
def test_panoptic_quality_of_the_recorded_maps(recorded, kind):
  metric = PanopticQuality(recorded.info.categories)
  for image in recorded.images(kind):
    metric.update_from_label_maps(image.ground_truth, image.prediction.panoptic_map[0].numpy(),
                                  recorded.info)
  expected = recorded.expected[f'panoptic_{kind}']['pq']
  for group in ('All', 'Things', 'Stuff'):
    assert metric.result()[group] == pytest.approx(expected[group], abs=1e-9)


def _shapes_image(prediction=None, scores=(0.9, 0.8)):
  """Two instances and a stuff class, predicted as they are unless told otherwise."""
  info = catalog.built_in('shapes')
  thing, stuff = info.thing_class_ids[0], info.stuff_class_ids[0]
  label = np.full((16, 16), stuff * info.label_divisor, np.int32)
  ids = [thing * info.label_divisor + 1, thing * info.label_divisor + 2]
  label[2:6, 2:6], label[9:15, 9:15] = ids
  maps = tf.constant(label if prediction is None else prediction(label, ids))[None]
  return info, ScoredImage('a', label, PanopticPrediction(
      panoptic_map=maps, semantic_map=maps // info.label_divisor,
      instance_map=maps % info.label_divisor, segment_ids=tf.constant([ids + [-1]]),
      segment_classes=maps, segment_scores=tf.constant([[*scores, -1.0]])))


def test_a_perfect_panoptic_map_has_full_average_precision_without_an_annotation_file():
  info, image = _shapes_image()
  score = extra_scores.MapAveragePrecision(info)
  metric = score.new_metric()
  score.update(metric, image)
  scalars = score.scalars(metric.result())
  assert scalars['panoptic_map_ap/AP'] == pytest.approx(1)
  assert 'panoptic_map_ap/APl' not in scalars  # Nothing is large.


def test_a_segment_that_vanished_is_no_detection():
  def without_first(label, ids):
    return np.where(label == ids[0], label[0, 0], label)

  info, image = _shapes_image(without_first)
  score = extra_scores.MapAveragePrecision(info)
  metric = score.new_metric()
  score.update(metric, image)
  assert metric.result()['AR100'] == pytest.approx(0.5)


def test_an_image_that_the_annotations_do_not_list_is_named(tmp_path):
  (tmp_path / 'instances.json').write_text(json.dumps({
      'images': [{'id': 1, 'file_name': 'b.jpg', 'height': 16, 'width': 16}], 'annotations': [],
      'categories': []}))
  info, image = _shapes_image()
  annotations = extra_scores.InstanceAnnotations(str(tmp_path / 'instances.json'), info)
  score = extra_scores.MapAveragePrecision(info, annotations)
  with pytest.raises(ValueError, match='instances.json: does not list the image a'):
    score.update(score.new_metric(), image)


def test_images_of_one_name_are_told_by_their_folders(tmp_path):
  names = ('cam0/1.jpg', 'cam1/1.jpg', 'cam1/2.jpg')
  (tmp_path / 'instances.json').write_text(json.dumps({
      'images': [{'id': index, 'file_name': name, 'height': 16, 'width': 16}
                 for index, name in enumerate(names)], 'annotations': [], 'categories': []}))
  annotations = extra_scores.InstanceAnnotations(str(tmp_path / 'instances.json'),
                                                 catalog.built_in('shapes'))
  assert [annotations.of_file(name)[0] for name in ('cam1/1', '/data/cam0/1.png', '2')] == [1, 0, 2]
  with pytest.raises(ValueError, match='image 1, which is evaluated, is ambiguous: it may be cam0'):
    annotations.of_file('1')


@pytest.mark.parametrize('category, words', [
    ({'id': 1, 'name': 'something'}, '"something"'), ({'id': 99, 'name': 'disc'}, 'it is none'),
])
def test_annotations_of_another_data_set_are_refused(tmp_path, category, words):
  path = tmp_path / 'instances.json'
  path.write_text(json.dumps({'images': [], 'annotations': [], 'categories': [category]}))
  with pytest.raises(ValueError, match=f'instances.json: category {category["id"]} .*{words}'):
    extra_scores.InstanceAnnotations(str(path), catalog.built_in('shapes'))


def test_scores_of_queries_are_refused_for_models_without(tmp_path):
  config = config_lib.load_config(tiny_runs.write_config(tmp_path),
                                  ['evaluator_options { extra_scores: AP_TH_PAN }'])

  with pytest.raises(config_lib.ConfigError, match='AP_TH_PAN needs the queries'):
    extra_scores.build(config, panoptic_deeplab.ARCHITECTURE, catalog.built_in('shapes'))
  assert extra_scores.need_queries(config, models.architecture(config))


def test_an_evaluation_reports_all_scores(tmp_path):
  config = tiny_runs.write_config(tmp_path)
  chosen = ' '.join(f'extra_scores: {name}' for name in ALL)
  run = training_runs.run(config, tmp_path / 'run', '--mode=train_and_eval',
                          f'--override=evaluator_options {{ {chosen} '
                          'best_checkpoint_metric: "miou_pan/miou" }')
  scores = json.loads((tmp_path / 'run' / 'metrics.json').read_text())
  assert {'All', 'per_class', 'miou_pan', 'ap_th_pan', 'panoptic_map_miou', 'panoptic_map_ap',
          'boundary_pq'} <= set(scores)
  assert 0 <= scores['miou_pan']['miou'] <= 1
  assert scores['boundary_pq']['All']['pq'] <= scores['All']['pq']
  assert 'miou_pan/miou' in run.out
  (scalars,) = [tiny_runs.read_scalars(folder) for folder in (tmp_path / 'run').glob('eval*')]
  assert {'miou_pan/miou', 'ap_th_pan/AP', 'panoptic_map_miou/miou'} <= set(scalars)
