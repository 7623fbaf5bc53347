"""The scale stress test: sizes, post-processing and scores at each ratio, and resuming."""

import contextlib
import json

import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_centers
import tiny_classification

import deeplab_tf
from deeplab_tf import models
from deeplab_tf.checkpoints import convert
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog, pipeline
from deeplab_tf.data.image_normalization import SYMMETRIC
from deeplab_tf.layers import aspp
from deeplab_tf.layers.shapes import scaled_size
from deeplab_tf.models import max_deeplab, panoptic_deeplab
from deeplab_tf.reports.scale_stress import scale_results, scale_stress
from deeplab_tf.training import evaluators, panoptic_evaluator

_LIMITS = 'evaluator_options { thing_area_limit: 60 stuff_area_limit: 200 }'


# Of the classes of `shapes`, far from each other.
_COLORS = [[r, g, b] for r in (0, 120, 250) for g in (0, 250) for b in (0, 250)][:10]


def _quietly(samples, total, ratio, size):
  del total, ratio, size
  return samples


@pytest.fixture(scope='module', name='folder')
def fixture_folder(tmp_path_factory):
  """Configs and checkpoints ckpt-1 of untrained networks, in folders `mask` and `center`."""
  folder = tmp_path_factory.mktemp('stress')
  for name, writer in (('mask', tiny), ('center', tiny_centers)):
    (folder / name).mkdir()
    config = deeplab_tf.load_config(writer.write_config(folder / name))
    convert.save_checkpoint(deeplab_tf.build_model(config), str(folder / name / 'ckpt-1'))
  return folder


def _stress(folder, name, *overrides, num_images=None):
  (path,) = (folder / name).glob('*.textproto')
  config = deeplab_tf.load_config(path, list(overrides))
  return scale_stress.ScaleStress(config, name, str(folder / name / 'ckpt-1'), num_images)


class _PaintedSource:
  """A data source whose images are painted in the colors of their classes."""

  def __init__(self, source, info):
    self._source, self._info = source, info

  def __getattr__(self, name):
    return getattr(self._source, name)

  def load(self, *payload):
    example = self._source.load(*payload)
    classes = example.label // self._info.label_divisor
    return example._replace(image=tf.gather(tf.constant(_COLORS, tf.uint8), classes))


def _nearest_color(images):
  """A network that tells the class of a pixel from its color, at the input's resolution."""
  away = SYMMETRIC.invert(images)[..., None, :] - tf.constant(_COLORS, tf.float32)
  return {'semantic_logits': -tf.reduce_sum(away**2, -1) / 1000}


@pytest.fixture(name='_painted')
def fixture_painted(monkeypatch):
  """Images painted by class, and a network that reads them at any size."""
  open_source = pipeline.readers.open_source
  monkeypatch.setattr(pipeline.readers, 'open_source', lambda options, info, field: _PaintedSource(
      open_source(options, info, field), info))
  monkeypatch.setattr(models, 'inference_network', lambda config, model: _nearest_color)


def _evaluate(config):
  """PQ and so on as the evaluation of a training counts them."""
  info = catalog.from_config(config)
  network = models.inference_network(config, None)
  postprocess = evaluators.build_postprocessor(config, info, False)
  progress = lambda steps: contextlib.nullcontext(  # noqa: E731
      type('Progress', (), {'update': staticmethod(lambda step: None)}))
  of_batches = panoptic_evaluator.PanopticEvaluator(
      dataset_info=info, normalization=SYMMETRIC, strategy=tf.distribute.get_strategy(),
      predict=lambda images: postprocess(network(images), tuple(images.shape[1:3])),
      batches=lambda: pipeline.eval_dataset(config, info), progress=progress)
  of_batches.evaluate(-1)
  return {group: of_batches.result[group] for group in scale_results.GROUPS}


@pytest.fixture(name='_nothing_is_predicted')
def fixture_nothing_is_predicted(monkeypatch):
  """Void in place of a network."""

  def predict_function(self, ratio, size):
    del ratio, size
    return lambda images, resized_size, raw_size: tf.fill(raw_size, self._info.void_label)

  monkeypatch.setattr(scale_stress.ScaleStress, '_predict_function', predict_function)


@pytest.mark.usefixtures('_painted')
@pytest.mark.parametrize('crop_size', [[65, 81], [91, 75]], ids=['whole', 'padded'])
def test_ratio_1_is_an_evaluation_and_what_sees_no_scale_scores_alike_at_all(
    folder, tmp_path, crop_size):
  stress = _stress(folder, 'center', tiny_centers.SEMANTIC, _LIMITS,
                   f'eval_dataset_options {{ crop_size: {crop_size} }}')
  expected = _evaluate(stress._config)
  assert 0.8 < expected['Stuff']['pq'] < 1
  stress.run([0.5, 1, 2.7], str(tmp_path / 'found.json'), _quietly)
  by_ratio = {each.ratio: each for each in stress.found.measurements}
  assert by_ratio[1].scores == expected
  assert by_ratio[1].images == stress.num_images == 3
  for ratio in (0.5, 2.7):
    assert by_ratio[ratio].size == tuple(scaled_size(n, ratio) for n in crop_size)
    assert by_ratio[ratio].scores['Stuff']['pq'] == pytest.approx(
        expected['Stuff']['pq'], abs=0.05), ratio


def test_images_padding_and_labels_at_a_ratio(folder):
  config = deeplab_tf.load_config(folder / 'center' / 'tiny_centers.textproto')
  info = catalog.from_config(config)
  own = next(iter(pipeline.eval_dataset(config, info)))
  for ratio, size in ((0.25, (17, 21)), (0.5, (33, 41)), (1, (65, 81)), (4, (257, 321))):
    batch = next(iter(pipeline.eval_dataset(config, info, ratio=ratio)))
    assert batch.images.shape == (2, *size, 3)
    np.testing.assert_array_equal(batch.resized_size,
                                  (own.resized_size.numpy() - 1) * ratio // 1 + 1)
    np.testing.assert_array_equal(batch.raw_size, own.raw_size)
    np.testing.assert_array_equal(batch.label, own.label)
    if ratio == 1:
      np.testing.assert_array_equal(batch.images, own.images)


def test_no_image_becomes_larger_than_its_crop():
  random = np.random.default_rng(0)
  for _ in range(60):
    height, width, crop_height, crop_width = (int(n) for n in random.integers(1, 40, 4))
    ratio = float(np.round(random.uniform(0.1, 4), 2))
    augmentation = pipeline.Augmentation((crop_height, crop_width))
    image = tf.zeros([height, width, 3], tf.uint8)
    _, own = pipeline.prepare_for_evaluation(image, augmentation)
    padded, inside = pipeline.prepare_for_evaluation(image, augmentation, ratio)
    crop = [scaled_size(n, ratio) for n in augmentation.crop_size]
    assert padded.shape == (*crop, 3)
    assert inside.numpy().tolist() == [scaled_size(int(n), ratio) for n in own]


def test_area_limits_are_those_of_the_same_object(folder):
  config = deeplab_tf.load_config(folder / 'center' / 'tiny_centers.textproto',
                                  [_LIMITS, 'evaluator_options { nms_kernel: 7 }'])
  before = config.SerializeToString(deterministic=True)
  for ratio, things, stuff in ((0.25, 4, 12), (1, 60, 200), (2, 240, 800), (4, 960, 3200)):
    scaled = scale_stress.scaled_postprocessing(config, ratio)
    options = scaled.evaluator_options
    assert (options.thing_area_limit, options.stuff_area_limit) == (things, stuff)
    options.thing_area_limit, options.stuff_area_limit = 60, 200
    assert scaled == config
  assert config.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize('name,model', [('mask', max_deeplab.MaXDeepLab),
                                        ('center', panoptic_deeplab.PanopticDeepLab)])
def test_every_kind_of_model_runs_at_each_size_with_its_windows(folder, tmp_path, monkeypatch,
                                                                name, model):
  sizes, windows = [], []
  call, average = model.call, aspp.ASPP._average

  def recorded_call(self, images, training=False):
    sizes.append(tuple(images.shape))
    return call(self, images, training=training)

  def recorded_average(self, x):
    windows.append((tuple(x.shape[1:3]), tuple(self.pool_size)))
    return average(self, x)

  monkeypatch.setattr(model, 'call', recorded_call)
  monkeypatch.setattr(aspp.ASPP, '_average', recorded_average)
  stress = _stress(folder, name, num_images=1)
  stress.run([2, 0.5], str(tmp_path / 'found.json'), _quietly)
  assert sizes == [(1, 33, 41, 3), (1, 129, 161, 3)]
  assert stress.found.ratios == (0.5, 2)
  assert [each.images for each in stress.found.measurements] == [1, 1]
  # The auxiliary decoder of the mask model is for training alone.
  assert windows == ([((3, 3), (3, 3))] * 2 + [((9, 11), (9, 11))] * 2 if name == 'center' else [])


def test_averaged_passes_are_scaled_together(folder, tmp_path, monkeypatch):
  sizes, windows = [], []
  call, average = panoptic_deeplab.PanopticDeepLab.call, aspp.ASPP._average

  def recorded_call(self, images, training=False):
    sizes.append(tuple(images.shape[1:3]))
    return call(self, images, training=training)

  def recorded_average(self, x):
    windows.append(tuple(self.pool_size))
    return average(self, x)

  monkeypatch.setattr(panoptic_deeplab.PanopticDeepLab, 'call', recorded_call)
  monkeypatch.setattr(aspp.ASPP, '_average', recorded_average)
  stress = _stress(folder, 'center', 'evaluator_options { eval_scales: [0.5, 1.0] }', num_images=1)
  stress.run([2], str(tmp_path / 'found.json'), _quietly)
  assert sizes == [(65, 81), (129, 161)]
  assert windows == [(5, 6)] * 2 + [(9, 11)] * 2
  decoders = (stress._model.semantic_decoder, stress._model.instance_decoder)
  assert [decoder.aspp.pool_size for decoder in decoders] == [(5, 6)] * 2


@pytest.mark.usefixtures('_nothing_is_predicted')
def test_what_is_measured_is_kept_and_not_measured_again(folder, tmp_path):
  path = str(tmp_path / 'found.json')
  started = []

  def stop_at_the_third(samples, total, ratio, size):
    del total, size
    started.append(ratio)
    if len(started) == 3:
      raise KeyboardInterrupt
    return samples

  stress = _stress(folder, 'center')
  stress.resume(path)
  with pytest.raises(KeyboardInterrupt):
    stress.run([0.5, 1, 0.25, 2], path, stop_at_the_third)
  assert started == [0.25, 0.5, 1] and scale_results.read(path).ratios == (0.25, 0.5)
  again = _stress(folder, 'center')
  again.resume(path)
  again.run([1, 0.25], path, stop_at_the_third)
  assert started == [0.25, 0.5, 1, 1] and scale_results.read(path) == again.found
  assert again.found.ratios == (0.25, 0.5, 1)
  # All of them are as many images as there are.
  _stress(folder, 'center', num_images=100).resume(path)
  for other, words in ((_stress(folder, 'center', num_images=2), 'of another number of images'),
                       (_stress(folder, 'center', _LIMITS), 'of another config'),
                       (_stress(folder, 'mask'), 'another checkpoint and config and number')):
    with pytest.raises(ValueError, match=words):
      other.resume(path)


def test_the_network_computes_in_the_precision_of_an_evaluation(folder):
  stress = _stress(folder, 'center', 'trainer_options { precision: BFLOAT16 }')
  head = stress._loaded_model().semantic_head
  assert head.compute_dtype == 'bfloat16' and head.variables[0].dtype == tf.float32
  assert keras.mixed_precision.global_policy().name == 'float32'


def test_as_many_images_as_an_evaluation_has(folder):
  assert _stress(folder, 'center').num_images == 3
  assert _stress(folder, 'center', 'evaluator_options { eval_steps: 1 }').num_images == 2
  assert _stress(folder, 'center', 'evaluator_options { eval_steps: 1 }',
                 num_images=1).num_images == 1
  assert _stress(folder, 'center', 'eval_dataset_options { max_damaged_images: 1 }',
                 num_images=1).num_images is None


def test_ratios_that_no_network_can_do_are_refused(folder):
  stress = _stress(folder, 'center')
  # 17 rows are two positions of stride 16.
  stress.check_ratios([0.25, 4])
  with pytest.raises(ValueError, match='input 16x20, .* stride 16 .* at least 0.25$'):
    stress.check_ratios([0.24])
  with pytest.raises(ValueError, match='input 64001x80001; .* at most'):
    stress.check_ratios([1000])


def test_the_smallest_pass_of_an_average_decides_on_ratios(folder):
  stress = _stress(folder, 'center', 'evaluator_options { eval_scales: [1.0, 0.5, 2.0] }')
  stress.check_ratios([0.5, 4])
  with pytest.raises(ValueError, match='ratio 0.25 makes the input 9x11 at eval_scales 0.5, .* '
                     'stride 16 .* at least 0.5$'):
    stress.check_ratios([0.25])
  # Larger passes do not make a small one possible.
  stress = _stress(folder, 'center', 'evaluator_options { eval_scales: [2.0] }')
  stress.check_ratios([0.125])


@pytest.mark.usefixtures('_nothing_is_predicted')
def test_what_does_not_fit_into_memory_leaves_what_fits(folder, tmp_path, monkeypatch):
  path = str(tmp_path / 'found.json')
  stress = _stress(folder, 'center', num_images=1)
  predict = stress._predict_function

  def limited(ratio, size):
    if ratio > 1:
      raise tf.errors.ResourceExhaustedError(None, None, 'OOM when allocating tensor')
    return predict(ratio, size)

  monkeypatch.setattr(stress, '_predict_function', limited)
  with pytest.raises(ValueError, match='ratio 2: an input of 129x161 does not fit into memory'):
    stress.run([0.25, 2], path, _quietly)
  assert json.loads((tmp_path / 'found.json').read_text())['ratios'][0]['ratio'] == 0.25


def test_an_evaluation_of_no_steps_is_refused(folder):
  none = 'evaluator_options { eval_steps: 0 }'
  with pytest.raises(ValueError, match='eval_steps is 0, .* or give --num_images'):
    _stress(folder, 'center', none)
  assert _stress(folder, 'center', none, num_images=2).num_images == 2


def test_a_data_set_without_images_is_refused(folder, tmp_path):
  stress = _stress(folder, 'center')
  with pytest.raises(ValueError, match='contains no images'):
    stress.run([1], str(tmp_path / 'found.json'), lambda samples, *_: samples.take(0))


def test_a_classifier_is_refused(folder, tmp_path):
  config = deeplab_tf.load_config(tiny_classification.write_experiment(tmp_path))
  with pytest.raises(ValueError, match='classifies whole images, and the scale stress test'):
    scale_stress.ScaleStress(config, 'name', str(folder / 'center' / 'ckpt-1'))


def test_only_tests_of_the_same_images_are_compared(folder):
  stress = _stress(folder, 'center')
  at_two = scale_results.Measurement(2.0, (129, 161), 3, 0.1, {
      group: {'pq': 0.5, 'sq': 0.5, 'rq': 1.0, 'n': 1} for group in scale_results.GROUPS})
  other = stress.found.with_measurement(at_two)
  stress.check_comparable(other, [1.0, 2.0], 'b')
  for changed, words in (
      (other._replace(dataset='coco'), 'b is on dataset "coco", this test on "shapes"'),
      (stress.found.with_measurement(at_two._replace(images=5)), 'on 5 images, this test on 3'),
      (stress.found.with_measurement(at_two._replace(ratio=3.0)), 'none of the ratios .* but 3;')):
    with pytest.raises(ValueError, match=words):
      stress.check_comparable(changed, [1.0, 2.0], 'b')
