"""Maps made at the size of the file: exported models and evaluation give the same ones."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
import tiny_mask2former

from deeplab_tf import models
from deeplab_tf.compat import keras
from deeplab_tf.config import load_config
from deeplab_tf.data import catalog, image_normalization, pipeline
from deeplab_tf.export import serving_module
from deeplab_tf.postprocessing import resize_back
from deeplab_tf.postprocessing.full_size import FullSize, predict
from deeplab_tf.training import evaluators
from deeplab_tf.training.panoptic_evaluator import PanopticEvaluator
from deeplab_tf.training.replicated_prediction import ReplicatedPrediction

# Images of 128x160 become 77x96, on an input of 96x96.
SIZES = 'eval_dataset_options { crop_size: 96 crop_size: 96 min_resize_value: 77 ' \
        'max_resize_value: 96 resize_rule: %s }'
RULES = {'aligned': 'DEEPLAB2', 'half_pixel': 'SHORTER_SIDE'}
# The rules are independent of the form of segments, of which each is tested once.
ONLY_CONFIDENT = {'aligned': 'true', 'half_pixel': 'false'}
SEGMENTS = 'evaluator_options { mask2former_postprocessing { confident_pixels_only: %s } }'


@pytest.fixture(name='setting', scope='module', params=RULES)
def fixture_setting(tmp_path_factory, request):
  """Returns config, classes, network and exported module, and the rule for images."""
  config = load_config(tiny_mask2former.write_config(tmp_path_factory.mktemp('config')),
                       [SIZES % RULES[request.param], SEGMENTS % ONLY_CONFIDENT[request.param]])
  info = catalog.from_config(config)
  keras.utils.set_random_seed(1)
  model = serving_module.build_network(config, info)
  for variable in model.trainable_variables:  # New masks are flat.
    if variable.shape.rank > 1:
      variable.assign(3 * variable)
  return config, info, model, serving_module.build(config, info, model), request.param


def _images():
  return np.random.default_rng(0).integers(0, 256, (2, 128, 160, 3)).astype(np.uint8)


def _assert_same(one, two):
  """Sizes that are known while tracing round differently, which may decide a pixel."""
  assert one.shape == two.shape and np.mean(np.asarray(one) == np.asarray(two)) > 0.999


def test_exported_models_resize_logits_and_not_maps(setting):
  config, info, model, module, rule = setting
  images = tf.constant(_images())
  found = module.predict(images)
  inputs, resized = module.prepare(images)
  assert inputs.shape == (2, 96, 96, 3) and resized.numpy().tolist() == [77, 96]
  outputs = model(inputs)
  postprocess = models.architecture(config).build_postprocessor(config, info)
  expected = postprocess.at_full_size(outputs, FullSize((96, 96), (77, 96), (128, 160), rule))
  _assert_same(found['panoptic_map'], expected.panoptic_map)
  assert len(np.unique(found['panoptic_map'])) > 2
  for i in range(2):
    ids = expected.segment_ids[i].numpy()
    count = (ids >= 0).sum()
    np.testing.assert_array_equal(found['segment_ids'][i, :count], ids[ids >= 0])
    assert (found['segment_ids'][i, count:].numpy() == -1).all()
    assert set(ids[ids >= 0]) == set(np.unique(found['panoptic_map'][i])) - {info.void_label}
  resized_maps = np.concatenate([
      resize_back.to_raw_size(postprocess({k: v[i:i + 1] for k, v in outputs.items()}, (96, 96)),
                              (77, 96), (128, 160), rule).panoptic_map for i in range(2)])
  assert 0.5 < (resized_maps == found['panoptic_map'].numpy()).mean() < 0.995


def test_sizes_may_be_tensors_or_numbers(setting):
  config, info, model, module, rule = setting
  outputs = {k: v[:1] for k, v in model(module.prepare(tf.constant(_images()))[0]).items()}
  postprocess = models.architecture(config).build_postprocessor(config, info)
  sizes = (96, 96), (77, 96), (128, 160)
  as_tensors = tf.function(lambda *s: predict(postprocess, outputs, FullSize(*s, rule)),
                           autograph=False)
  for one, two in zip(predict(postprocess, outputs, FullSize(*sizes, rule)),
                      as_tensors(*(tf.constant(s) for s in sizes))):
    if one.shape.rank == 3:
      _assert_same(one, two)
    else:
      np.testing.assert_allclose(one, two, atol=1e-3)


def test_evaluation_gives_the_maps_of_the_exported_model(setting):
  config, info, model, module, rule = setting
  samples, strategy = [], tf.distribute.get_strategy()
  architecture = models.architecture(config)
  evaluator = PanopticEvaluator(
      dataset_info=info, normalization=image_normalization.build(config.model_options),
      on_sample=lambda _, sample: samples.append(sample), resize_rule=rule,
      at_full_size=architecture.build_postprocessor(config, info).at_full_size,
      strategy=strategy, batches=lambda: pipeline.eval_dataset(config, info),
      predict=ReplicatedPrediction(
          strategy, models.inference_network(config, model),
          evaluators.build_postprocessor(config, info, False), 2),
      progress=lambda _: contextlib.nullcontext(_NoProgress()))
  scalars = evaluator.evaluate(tf.constant(-1))
  assert len(samples) == 3 and 'All/pq' in scalars
  for sample in samples:
    assert sample.image.shape == (128, 160, 3)
  # The pixels of samples went through the network's input size, so the originals are read again.
  from deeplab_tf.data.sources import _shape_scenes
  for i, sample in enumerate(samples):
    image = _shape_scenes.generate('val', i)[0]
    _assert_same(sample.prediction, module.predict(tf.constant(image[None]))['panoptic_map'][0])


class _NoProgress:

  def update(self, step):
    pass
