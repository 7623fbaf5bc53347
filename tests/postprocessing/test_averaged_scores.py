"""Class scores of Mask2Former averaged over sizes and mirrored images."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_mask2former
from PIL import Image

from deeplab_tf import models
from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.compat import keras
from deeplab_tf.config import ConfigError, load_config
from deeplab_tf.data import catalog, image_normalization
from deeplab_tf.models import _score_passes
from deeplab_tf.postprocessing.averaged_scores import AllPasses, AveragedScores, ScorePass
from deeplab_tf.postprocessing.full_size import FullSize

INFO = DatasetInfo('four', tuple(Category(i + 1, i + 1, str(i), False, (i, i, i))
                                 for i in range(4)), 5, 0, 256)
SEMANTIC = ('task: SEMANTIC clear: "eval_dataset_options.crop_size" eval_dataset_options { '
            'resize_rule: SHORTER_SIDE min_resize_value: 64 max_resize_value: 80 size_divisor: 32 '
            'batch_size: 1 }')
AVERAGED = 'evaluator_options { eval_scales: [0.5, 1.3] add_flipped_images: true }'


# === In numpy ===


def _resized(x, size):
  """Resizes [h, w, n] bilinearly with half-pixel centers and without antialiasing."""
  for axis, target in enumerate(size):
    source = x.shape[axis]
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(position).astype(int)
    weight = (position - low).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
    x = (np.take(x, low, axis) * (1 - weight)
         + np.take(x, np.minimum(low + 1, source - 1), axis) * weight)
  return x


def _scores_of_one(mask_logits, class_logits, sizes, raw_size, is_flipped):
  """The scores of the released code for one pass, float64 [*raw_size, classes]."""
  (height, width), (h, w) = sizes
  masks = 1 / (1 + np.exp(-_resized(mask_logits.astype(np.float64), (height, width))))
  exponents = np.exp(class_logits.astype(np.float64))
  probabilities = (exponents / exponents.sum(-1, keepdims=True))[:, :-1]
  scores = _resized(np.einsum('yxq,qc->yxc', masks, probabilities)[:h, :w], raw_size)
  return scores[:, ::-1] if is_flipped else scores


def _assert_maps_of(scores, semantic_map):
  """Where the two best scores are equal up to rounding, either class may win."""
  best = np.sort(scores, -1)
  is_clear = best[..., -1] - best[..., -2] > 1e-5
  assert is_clear.mean() > 0.99
  np.testing.assert_array_equal(semantic_map[is_clear], np.argmax(scores, -1)[is_clear] + 1)


# === Post-processing ===


def _passes(sizes):
  """Passes of the sizes ((input), (resized)); every second one is mirrored."""
  return [ScorePass(None, lambda raw, s=s: (tf.constant(s[0]), tf.constant(s[1])), i % 2 == 1)
          for i, s in enumerate(sizes)]


def _outputs(sizes, images=2, queries=9):
  rng = np.random.default_rng(0)
  return {'mask_logits': tuple(tf.constant(rng.normal(size=(
      images, -(-height // 4), -(-width // 4), queries)) * 3, tf.float32)
                               for (height, width), _ in sizes),
          'class_logits': tuple(tf.constant(rng.normal(size=(images, queries, 5)) * 2, tf.float32)
                                for _ in sizes)}


@pytest.mark.parametrize('raw_size', [(150, 41), (64, 33), (129, 70), (5, 7)])
def test_the_map_is_the_argmax_of_the_mean_of_all_passes(raw_size):
  sizes = [((32, 64), (19, 33)), ((32, 64), (19, 33)), ((64, 64), (64, 61)),
           ((160, 96), (131, 95)), ((33, 35), (33, 35))]
  outputs, passes = _outputs(sizes), _passes(sizes)
  found = AveragedScores(INFO, passes).at_full_size(
      outputs, FullSize(raw_size, raw_size, raw_size)).semantic_map.numpy()
  assert found.shape == (2, *raw_size) and found.dtype == np.int32
  for image in range(2):
    scores = np.mean([
        _scores_of_one(masks[image].numpy(), classes[image].numpy(), size, raw_size,
                       one.is_flipped)
        for masks, classes, size, one in zip(outputs['mask_logits'], outputs['class_logits'],
                                             sizes, passes)], 0)
    _assert_maps_of(scores, found[image])


def test_sizes_may_be_known_only_when_the_graph_runs():
  sizes, raw_size = [((32, 64), (19, 33)), ((64, 96), (38, 66))], (70, 121)
  outputs, postprocess = _outputs(sizes), AveragedScores(INFO, _passes(sizes))
  dynamic = tf.function(lambda size: postprocess.at_full_size(outputs, FullSize(size, size, size)),
                        autograph=False)(tf.constant(raw_size))
  np.testing.assert_array_equal(dynamic.semantic_map,
                                postprocess(outputs, raw_size).semantic_map)


# === Passes ===


class _Corners(keras.Model):
  """Masks are the colors of every fourth pixel; notes the sizes of the inputs."""

  def call(self, images, training=False):
    assert training is False
    masks = images[:, ::4, ::4]
    return {'mask_logits': masks, 'class_logits': tf.zeros([tf.shape(images)[0], 3, 5])}


def _pixels(height, width, seed=0):
  coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
  return np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))


def _config(tmp_path, *overrides):
  return load_config(tiny_mask2former.write_config(tmp_path), [SEMANTIC, *overrides])


def test_each_pass_resizes_the_file_as_an_evaluation_does(tmp_path):
  config = _config(tmp_path, AVERAGED)
  passes = _score_passes.build(config)
  assert [one.is_flipped for one in passes] == [False, True] * 2
  raw = _pixels(70, 100)
  normalize = image_normalization.build(config.model_options).apply
  network = tf.function(models.inference_network(config, _Corners()), autograph=False)
  outputs = network(normalize(raw[None]))
  # Shorter sides of 32 and 83, but the longer one is at most 80 times the scale.
  expected = [(28, 40), (73, 104)]
  for number, (one, masks) in enumerate(zip(passes, outputs['mask_logits'])):
    size = expected[number // 2]
    padded = [-(-n // 32) * 32 for n in size]
    input_size, resized = one.sizes(tf.constant([70, 100]))
    assert (input_size.numpy().tolist(), resized.numpy().tolist()) == (padded, list(size))
    image = np.asarray(Image.fromarray(raw).resize(size[::-1], Image.BILINEAR))
    image = image[:, ::-1] if number % 2 else image
    image = np.pad(normalize(image), [(0, padded[0] - size[0]), (0, padded[1] - size[1]), (0, 0)])
    np.testing.assert_allclose(masks[0], image[::4, ::4], atol=0.02)


@pytest.mark.parametrize('limit, size', [('', (19, 80)), ('eval_max_resize_value: 70', (17, 70)),
                                         ('eval_max_resize_value: 4000', (32, 133))])
def test_the_limit_of_the_longer_side_is_scaled_or_the_same_for_all(tmp_path, limit, size):
  config = _config(tmp_path, f'evaluator_options {{ eval_scales: [0.5, 1] {limit} }} '
                   'eval_dataset_options { max_resize_value: 160 }')
  found = [one.sizes(tf.constant([60, 250]))[1].numpy().tolist()
           for one in _score_passes.build(config)]
  assert found[0] == list(size)
  largest = min(64 * 250 / 60, {'': 160}.get(limit) or int(limit.split()[1]))
  assert found[1][1] == int(largest + 0.5)


def test_the_sizes_of_the_released_configs(tmp_path):
  for name, short, longest in (('ade20k/mask2former/semantic_r50', 512, 3584),
                               ('ade20k/mask2former/semantic_swin_large_res640', 640, 4480),
                               ('cityscapes/mask2former/semantic_r101', 1024, 4096)):
    config = load_config(f'configs/{name}.textproto', [
        'evaluator_options { eval_scales: [0.5, 0.75, 1, 1.25, 1.5, 1.75] '
        'add_flipped_images: true }'])
    passes = _score_passes.build(config)
    assert len(passes) == 12
    shorter = [one.sizes(tf.constant([600, 700]))[1].numpy().tolist() for one in passes[::2]]
    assert [min(size) for size in shorter] == list(range(short // 2, short * 7 // 4 + 1,
                                                         short // 4))
    assert {max(one.sizes(tf.constant([10, 9000]))[1].numpy()) for one in passes} == {longest}


# === The whole path ===


@pytest.fixture(name='network', scope='module')
def fixture_network(tmp_path_factory):
  """Returns config, classes, a random network, and the function from pixels to class maps."""
  config = _config(tmp_path_factory.mktemp('config'), AVERAGED)
  info = catalog.from_config(config)
  keras.utils.set_random_seed(1)
  model = models.architecture(config).build(config, info)
  for variable in model.trainable_variables:  # New masks are flat.
    if variable.shape.rank > 1:
      variable.assign(3 * variable)
  network = models.inference_network(config, model)
  postprocess = models.architecture(config).build_postprocessor(config, info)
  normalize = image_normalization.build(config.model_options).apply

  @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
  def predict(images):
    return postprocess(network(normalize(images)), tuple(tf.unstack(tf.shape(images)[1:3])))

  return config, model, lambda pixels: predict(tf.constant(pixels[None])).semantic_map[0].numpy()


def test_maps_are_those_of_the_definition_from_file_to_class(network):
  config, model, predict = network
  raw, found = _pixels(51, 93), predict(_pixels(51, 93))
  scores = []
  for one in _score_passes.build(config):
    pixels = raw[:, ::-1] if one.is_flipped else raw
    outputs = model(one.prepare(tf.constant(pixels))[None], training=False)
    sizes = [size.numpy() for size in one.sizes(tf.constant(raw.shape[:2]))]
    scores.append(_scores_of_one(outputs['mask_logits'][0].numpy(),
                                 outputs['class_logits'][0].numpy(), sizes, raw.shape[:2],
                                 one.is_flipped))
  assert len(scores) == 4
  mean = np.mean(scores, 0)
  classes = np.asarray(catalog.from_config(config).class_ids)
  assert np.mean(classes[np.argmax(mean, -1)] == found) > 0.995
  assert len(np.unique(found)) > 1
  # It is not the map of a single pass.
  assert np.mean(classes[np.argmax(scores[0], -1)] == found) < 0.999


def test_a_mirrored_image_has_a_mirrored_map(network):
  _, _, predict = network
  raw = _pixels(58, 77, seed=3)
  assert np.mean(predict(raw[:, ::-1])[:, ::-1] == predict(raw)) > 0.998


# === What is refused ===


@pytest.mark.parametrize('overrides, message', [
    (['task: PANOPTIC'], 'eval_scales averages class scores, and task is PANOPTIC: for mask2former '
     'set task to SEMANTIC, or remove it'),
    (['clear: "eval_dataset_options.size_divisor"'], 'needs eval_dataset_options { resize_rule: '
     'SHORTER_SIDE size_divisor: 32 } without crop_size'),
    (['eval_dataset_options { batch_size: 4 }'], 'batch_size, which is 4, to 1'),
    (['trainer_options { jit_compile: true }'], 'set trainer_options.jit_compile to false'),
])
def test_what_cannot_be_averaged_is_refused(tmp_path, overrides, message):
  with pytest.raises(ConfigError) as caught:
    _config(tmp_path, 'evaluator_options { eval_scales: [0.5, 1] }', *overrides)
  assert message in str(caught.value) and '\n' not in str(caught.value)


def test_the_limit_is_refused_for_other_models(tmp_path):
  with pytest.raises(ConfigError, match='eval_max_resize_value is for mask2former; model_options '
                                        'has max_deeplab: remove it'):
    load_config(tiny.write_config(tmp_path), ['evaluator_options { eval_max_resize_value: 9 }'])


def test_one_scale_of_one_is_a_plain_evaluation(tmp_path):
  config = _config(tmp_path, 'evaluator_options { eval_scales: 1 }')
  model = _Corners()
  assert not isinstance(models.inference_network(config, model), AllPasses)
