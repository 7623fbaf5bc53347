"""Post-processing brings only the kept queries to full resolution, and never a whole batch."""

import graphs
import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data import catalog
from deeplab_tf.postprocessing import mask_transformer, maskwise, query_maps
from deeplab_tf.protos import data_pb2, evaluator_pb2

KINDS = ['pixelwise', 'maskwise']
BATCH, QUERIES, CLASSES = 2, 128, 133
SIZE, LOGITS_SIZE = 641, 161
PIXELS = SIZE * SIZE
# The documented number of queries that are at full resolution at once where their number must
# not depend on values.
A_FEW = 16
INPUT = BATCH * LOGITS_SIZE**2 * QUERIES


def _postprocessor(static_shapes, **fields):
  info = catalog.from_options(data_pb2.DatasetOptions(dataset='coco_panoptic'))
  assert len(info.class_ids) == CLASSES
  return mask_transformer.build(evaluator_pb2.EvaluatorOptions(**fields), info, static_shapes)


def _traced(static_shapes, **fields):
  postprocess = _postprocessor(static_shapes, **fields)
  outputs = {'mask_logits': tf.TensorSpec([BATCH, LOGITS_SIZE, LOGITS_SIZE, QUERIES]),
             'class_logits': tf.TensorSpec([BATCH, QUERIES, CLASSES + 1])}
  tensors = list(graphs.tensors(lambda x: postprocess(x, (SIZE, SIZE)), outputs))
  assert len(tensors) > 200
  return tensors


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('static_shapes', [False, True])
def test_no_tensor_holds_all_queries_at_full_resolution(static_shapes, kind):
  tensors = _traced(static_shapes, transformer_post_processing=kind)
  assert not [t for t in tensors if t.elements > max(INPUT, PIXELS * A_FEW)]
  # The kept queries, as many as there are, and the few: there is something to look at.
  number = A_FEW if static_shapes or kind == 'maskwise' else None
  assert any(t.shape.as_list() == [1, SIZE, SIZE, number] for t in tensors if t.shape.rank)


@pytest.mark.parametrize('kind', KINDS)
def test_static_shapes_leave_no_size_open(kind):
  tensors = _traced(True, transformer_post_processing=kind)
  assert all(t.shape.is_fully_defined() for t in tensors)


def _outputs(kept, dropped_logit):
  """Returns outputs of an image for each number of kept queries; the last queries are kept."""
  is_kept = np.arange(QUERIES)[::-1] < np.array(kept)[:, None]
  classes = np.where(is_kept[..., None], 30 * np.eye(CLASSES + 1)[5], 0.0)
  masks = np.random.default_rng(0).uniform(-4, 4, (len(kept), 33, 33, QUERIES))
  masks = np.where(is_kept[:, None, None], masks, dropped_logit)
  return {'mask_logits': tf.constant(masks, tf.float32),
          'class_logits': tf.constant(classes, tf.float32)}


@pytest.fixture(name='brought_up')
def _brought_up(monkeypatch):
  """Lists how many queries each resizing to full resolution was for."""
  numbers = []
  resize = query_maps.resize_bilinear

  def counting(x, size, rule):
    assert x.shape[0] == 1
    numbers.append(x.shape[3])
    return resize(x, size, rule)

  for module in (query_maps, maskwise):
    monkeypatch.setattr(module, 'resize_bilinear', counting)
  return numbers


@pytest.mark.parametrize('kept', [[5, 3], [0, 40]])
def test_only_kept_queries_are_brought_to_full_resolution(kept, brought_up):
  prediction = _postprocessor(False)(_outputs(kept, -9.0), (129, 129))
  assert prediction.panoptic_map.shape == (2, 129, 129)
  # Of each image the kept ones, at least one, and the bound of the others.
  assert brought_up == [n for number in kept for n in (max(number, 1), 1)]


@pytest.mark.parametrize('kept', [[5, 3], [0, 40]])
def test_with_static_shapes_kept_queries_are_brought_up_a_few_at_a_time(kept, brought_up):
  _postprocessor(True)(_outputs(kept, -9.0), (129, 129))
  assert brought_up == [n for number in kept
                        for n in [A_FEW] * _parts(max(number, 1)) + [1]]


@pytest.mark.parametrize('static_shapes', [False, True])
def test_where_dropped_queries_may_win_they_follow_a_few_at_a_time(static_shapes, brought_up):
  kept = 5
  _postprocessor(static_shapes)(_outputs([kept], 3.5), (129, 129))
  assert brought_up == [A_FEW if static_shapes else kept, 1] + [A_FEW] * _parts(QUERIES - kept)


@pytest.mark.parametrize('static_shapes', [False, True])
@pytest.mark.parametrize('kept', [[5, 3], [0, 40], [QUERIES, 1]])
def test_pasting_brings_up_a_few_for_the_softmax_and_then_each_kept_query(static_shapes, kept,
                                                                          brought_up):
  _postprocessor(static_shapes, transformer_post_processing='maskwise')(_outputs(kept, -9.0),
                                                                   (129, 129))
  assert brought_up == [n for number in kept
                        for n in [A_FEW] * _parts(QUERIES) + [1] * number]


def _parts(queries):
  return -(-queries // A_FEW)
