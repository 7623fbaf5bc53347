"""Post-processing with static shapes gives the same maps, and XLA compiles it."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import catalog
from deeplab_tf.models import max_deeplab
from deeplab_tf.postprocessing import mask_transformer, query_maps
from deeplab_tf.protos import config_pb2, data_pb2, evaluator_pb2

CLASSES = 9
# Height and width of the logits and of the maps, and the number of queries.
SHAPES = [((9, 11), (33, 41), 12), ((13, 7), (49, 25), 16), ((17, 21), (65, 83), 37),
          ((5, 5), (5, 5), 1)]
# None, some and all queries pass these.
CLASS_THRESHOLDS = [1.1, 0.6, 0.4, 0.0]
# What a program of static shapes must not hold: calls of the host, and ops whose result is as
# long as their input's values say.
FORBIDDEN = {'PyFunc', 'PyFuncStateless', 'EagerPyFunc', 'Where', 'Unique', 'UniqueV2',
             'DynamicPartition'}


def _info():
  return catalog.from_options(data_pb2.DatasetOptions(dataset='shapes'))


def _outputs(seed, shape=(17, 21), queries=37, batch=2):
  rng = np.random.default_rng(seed)
  class_logits = rng.normal(size=(batch, queries, CLASSES + 1)) * 3
  mask_logits = rng.normal(size=(batch, *shape, queries)) * 4
  return {'mask_logits': tf.constant(mask_logits, tf.float32),
          'class_logits': tf.constant(class_logits, tf.float32)}


def _postprocessor(static_shapes, **fields):
  fields = {'pixel_confidence_threshold': 0.4, **fields}
  return mask_transformer.build(evaluator_pb2.EvaluatorOptions(**fields), _info(),
                                static_shapes=static_shapes)


def _maps_and_prediction(postprocessor, size, outputs):
  return postprocessor.query_maps(outputs, size), postprocessor(outputs, size)


def _compiled(postprocessor, size):
  return tf.function(functools.partial(_maps_and_prediction, postprocessor, size),
                     jit_compile=True, autograph=False)


def _assert_same(actual, expected):
  maps, prediction = actual
  expected_maps, expected_prediction = expected
  for name, value in maps._asdict().items():
    compare = (np.testing.assert_array_equal if value.dtype in (tf.int32, tf.bool) else
               functools.partial(np.testing.assert_allclose, atol=1e-5))
    compare(value, getattr(expected_maps, name), err_msg=name)
  for name, value in prediction._asdict().items():
    np.testing.assert_allclose(value, getattr(expected_prediction, name), atol=1e-5, err_msg=name)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('threshold', CLASS_THRESHOLDS)
@pytest.mark.parametrize('shape,size,queries', SHAPES)
def test_static_shapes_give_the_same_maps(shape, size, queries, threshold, seed):
  outputs = _outputs(seed, shape, queries)
  fields = {'transformer_class_confidence_threshold': threshold}
  expected = _maps_and_prediction(_postprocessor(False, **fields), size, outputs)
  actual = _maps_and_prediction(_postprocessor(True, **fields), size, outputs)
  _assert_same(actual, expected)


def test_the_thresholds_keep_none_some_and_all():
  shares = []
  for threshold in CLASS_THRESHOLDS:
    postprocess = _postprocessor(True, transformer_class_confidence_threshold=threshold)
    shares.append(postprocess.query_maps(_outputs(0), (65, 83)).kept.numpy().mean())
  assert shares[0] == 0 and shares[-1] == 1
  assert 0.2 < shares[1] < shares[2] < 1


@pytest.mark.parametrize('static_shapes', [False, True])
def test_none_kept_gives_the_first_query_without_confidence(static_shapes):
  outputs = _outputs(0)
  # Image 0 keeps none and image 1 all.
  certain = tf.one_hot([[0] * 37], CLASSES + 1, on_value=30.0)
  outputs['class_logits'] = tf.concat([tf.zeros_like(certain), certain], axis=0)
  # Even thresholds that every probability passes leave the first image without confidence.
  maps = query_maps.pixelwise(outputs['mask_logits'], outputs['class_logits'], (65, 83), 0.7, -1.0,
                              static_shapes=static_shapes)
  assert not maps.query_map[0].numpy().any()
  assert not maps.pixel_score[0].numpy().any()
  assert not maps.confident[0].numpy().any()
  assert maps.confident[1].numpy().all()


@pytest.mark.parametrize('jit_compile', [False, True])
def test_of_equal_logits_the_lowest_query_wins(jit_compile):
  # Query 20 equals queries 3 and 36 everywhere: they are in different parts.
  outputs = _outputs(0)
  masks = outputs['mask_logits'].numpy()
  masks[..., 20] = masks[..., 36] = masks[..., 3] = 50.0
  outputs['class_logits'] = tf.one_hot([[0] * 37] * 2, CLASSES + 1, on_value=30.0)
  # Without query 0 the order of reading is not that of the queries.
  outputs['class_logits'] *= np.arange(37)[None, :, None] > 0
  outputs['mask_logits'] = tf.constant(masks)
  read = tf.function(functools.partial(_maps_and_prediction, _postprocessor(True), (65, 83)),
                     jit_compile=jit_compile, autograph=False)
  maps, _ = read(outputs)
  assert (maps.query_map.numpy() == 3).all()
  np.testing.assert_allclose(maps.pixel_score, 1 / 3, rtol=1e-5)


@pytest.mark.parametrize('static_shapes', [False, True])
def test_a_dropped_query_beats_a_kept_one_wherever_it_is_in_the_order(static_shapes):
  for beating in (0, 19, 36):
    outputs = _outputs(0)
    masks = outputs['mask_logits'].numpy()
    masks[:, :, 10:, beating] = 60.0
    masks[:, :, :10, beating] = -60.0
    classes = np.zeros((2, 37, CLASSES + 1), np.float32)
    classes[:, [5, 7]] = np.eye(CLASSES + 1)[0] * 30
    maps = query_maps.pixelwise(tf.constant(masks), tf.constant(classes), (17, 21), 0.7, -1.0,
                                static_shapes=static_shapes)
    kept = masks[..., [5, 7]].max(-1)
    dropped = np.delete(masks, [5, 7], axis=-1).max(-1)
    np.testing.assert_array_equal(maps.confident, dropped <= kept)
    assert not maps.confident.numpy()[:, :, 10:].any()
    assert set(np.unique(maps.query_map)) == {5, 7}


@pytest.mark.parametrize('threshold', CLASS_THRESHOLDS)
@pytest.mark.parametrize('shape,size,queries', SHAPES[1:3])
def test_compiled_it_gives_the_same_maps(shape, size, queries, threshold):
  fields = {'transformer_class_confidence_threshold': threshold}
  run = _compiled(_postprocessor(True, **fields), size)
  for seed in range(2):
    outputs = _outputs(seed, shape, queries)
    expected = _maps_and_prediction(_postprocessor(False, **fields), size, outputs)
    _assert_same(run(outputs), expected)


def _maskwise_fields(mask_exponent):
  # Both exponents alike: the softmax of equal rows may differ in the last bit from row to row,
  # where a kernel takes the last numbers of a tensor one by one; to the power of 0 they are equal.
  pasting = evaluator_pb2.EvaluatorOptions.MaskwisePostProcessingOptions(
      transformer_class_confidence_threshold_thing=0.5,
      transformer_class_confidence_threshold_stuff=0.4, overlapping_threshold=0.5,
      reorder_class_weight=mask_exponent, reorder_mask_weight=mask_exponent)
  return {'transformer_post_processing': 'maskwise', 'maskwise_postprocessing': pasting}


@pytest.mark.parametrize('mask_exponent', [0.0, 1.0])
@pytest.mark.parametrize('shape,size,queries', SHAPES[1:3])
def test_pasting_compiles_and_gives_the_same_maps(shape, size, queries, mask_exponent):
  fields = _maskwise_fields(mask_exponent)
  run = _compiled(_postprocessor(True, **fields), size)
  for seed in range(2):
    outputs = _outputs(seed, shape, queries)
    # Queries of equal confidence: their order must not depend on who sorts.
    outputs['class_logits'] = tf.concat(
        [outputs['class_logits'][:, :queries // 2],
         tf.one_hot([[1] * (queries - queries // 2)] * 2, CLASSES + 1, on_value=30.0)], axis=1)
    expected = _maps_and_prediction(_postprocessor(False, **fields), size, outputs)
    _assert_same(run(outputs), expected)


def _nodes(function, *args):
  """All nodes of a traced function and of the functions it calls, with their shapes."""
  graph = function.get_concrete_function(*args).graph.as_graph_def(add_shapes=True)
  yield from graph.node
  for inner in graph.library.function:
    yield from inner.node_def


def _is_static(node):
  return all(not shape.unknown_rank and all(d.size >= 0 for d in shape.dim)
             for shape in node.attr['_output_shapes'].list.shape)


@pytest.mark.parametrize('fields', [{}, _maskwise_fields(1.0)], ids=['pixelwise', 'maskwise'])
def test_no_shape_depends_on_values_and_nothing_calls_the_host(fields):
  run = _compiled(_postprocessor(True, **fields), (65, 83))
  nodes = list(_nodes(run, _outputs(0)))
  assert len(nodes) > 100 and any('While' in n.op for n in nodes)
  assert not {n.op for n in nodes} & FORBIDDEN
  dynamic = [f'{n.op} {n.name}' for n in nodes if not _is_static(n)]
  assert not dynamic


def test_the_other_form_has_shapes_that_depend_on_values():
  # What the test above looks for is there to be found.
  run = tf.function(functools.partial(_maps_and_prediction, _postprocessor(False), (65, 83)),
                    autograph=False)
  assert not all(_is_static(n) for n in _nodes(run, _outputs(0)))


def test_no_tensor_holds_all_queries_at_full_resolution():
  run = _compiled(_postprocessor(True), (65, 83))
  largest = max(np.prod([d.size for d in shape.dim], dtype=np.int64)
                for node in _nodes(run, _outputs(0))
                for shape in node.attr['_output_shapes'].list.shape)
  assert largest == 65 * 83 * 16


def test_unknown_sizes_are_allowed_without_compilation():
  postprocess = _postprocessor(True)

  @tf.function(input_signature=[tf.TensorSpec([None, None, None, None]),
                                tf.TensorSpec([None, None, CLASSES + 1]),
                                tf.TensorSpec([2], tf.int32)], autograph=False)
  def run(masks, classes, size):
    outputs = {'mask_logits': masks, 'class_logits': classes}
    return postprocess(outputs, (size[0], size[1])).panoptic_map

  outputs = _outputs(0)
  actual = run(outputs['mask_logits'], outputs['class_logits'], [65, 83])
  expected = postprocess(outputs, (65, 83)).panoptic_map
  # Weights of the resizing that are computed in the graph round differently.
  assert np.mean(actual.numpy() != expected.numpy()) < 2e-3


@pytest.mark.parametrize('static_shapes', [False, True])
def test_the_model_passes_the_choice_on(static_shapes):
  config = config_pb2.ExperimentOptions()
  postprocess = max_deeplab.build_postprocessor(config, _info(), static_shapes=static_shapes)
  assert postprocess.static_shapes == static_shapes
