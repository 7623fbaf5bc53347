"""The criterion and its gradients never compare all pixels with all queries and all masks at once.

The sizes are those of the published training; the graph is traced and not run.
"""

import graphs
import pytest
import tensorflow as tf

from deeplab_tf.losses.max_deeplab import LossTerm, MaXDeepLabCriterion
from deeplab_tf.structures import MaskTargets

BATCH, CROP, SIZE = 2, 641, 161
QUERIES, MASKS, CLASSES, CHANNELS = 128, 181, 133, 128
PIXELS = SIZE * SIZE
# float32 [batch, pixels, masks]: which mask each pixel belongs to, and how alike they are. That
# is the most that any step needs, once; [batch, pixels, queries] is less.
LARGEST = BATCH * PIXELS * MASKS
SAMPLE_K = 4096
_TOP_K = LossTerm(1.0, 0.2)

OUTPUTS = {
    'mask_logits': tf.TensorSpec([BATCH, SIZE, SIZE, QUERIES]),
    'class_logits': tf.TensorSpec([BATCH, QUERIES, CLASSES + 1]),
    'pixel_features': tf.TensorSpec([BATCH, SIZE, SIZE, CHANNELS]),
    'semantic_logits': tf.TensorSpec([BATCH, SIZE, SIZE, CLASSES + 1]),
}
TARGETS = MaskTargets(
    semantic_map=tf.TensorSpec([BATCH, CROP, CROP], tf.int32),
    semantic_weights=tf.TensorSpec([BATCH, CROP, CROP]),
    mask_ids=tf.TensorSpec([BATCH, CROP, CROP], tf.int32),
    mask_classes=tf.TensorSpec([BATCH, MASKS], tf.int32),
    mask_isthing=tf.TensorSpec([BATCH, MASKS], tf.bool))


def _step(**options):
  """Returns a function from outputs and targets to the losses and the gradients of outputs."""
  criterion = MaXDeepLabCriterion(0, **options)

  def step(outputs, targets):
    with tf.GradientTape() as tape:
      tape.watch(outputs)
      result = criterion(outputs, targets)
      total = tf.reduce_sum(result.total)
    gradients = tape.gradient(total, outputs)
    assert all(gradient is not None for gradient in gradients.values())
    return result, gradients

  return step


def _too_large(tensors, largest):
  """Lists the tensors of rank 5 or more, of unknown size or of more elements than the largest."""
  return [t for t in tensors if not t.shape.is_fully_defined() or t.shape.rank > 4
          or t.elements > largest]


@pytest.mark.parametrize('options, largest', [
    ({'solver': 'scipy'}, LARGEST),
    ({'solver': 'native'}, LARGEST),
    ({'similarity': 'rq_plus_sq', 'negatives': 'all_unmatched'}, LARGEST),
    ({'semantic_term': _TOP_K, 'mask_id_term': _TOP_K, 'instance_discrimination_term': _TOP_K},
     LARGEST),
    # The similarities of all pixels that are drawn.
    ({'sample_k': SAMPLE_K}, BATCH * SAMPLE_K**2)],
    ids=['scipy', 'native', 'sum', 'top-k', 'sampled'])
def test_no_tensor_is_larger_than_pixels_times_masks(options, largest):
  tensors = list(graphs.tensors(_step(**options), OUTPUTS, TARGETS))
  assert len(tensors) > 500
  assert not _too_large(tensors, largest)
  # Nor does a loop keep such a tensor in pieces for its gradient.
  assert not [t for t in tensors if 'TensorList' in t.name]


def test_what_is_looked_for_would_be_found_inside_of_loops_and_compiled_parts():
  def overlap(probabilities, members):
    product = probabilities[:, :, tf.newaxis] * members[:, tf.newaxis]
    return tf.reduce_sum(product, axis=0)

  specs = tf.TensorSpec([BATCH, PIXELS, QUERIES]), tf.TensorSpec([BATCH, PIXELS, MASKS])

  def in_a_loop(probabilities, members):
    return tf.map_fn(lambda x: overlap(*x), (probabilities, members),
                     fn_output_signature=tf.float32)

  def compiled(probabilities, members):
    return tf.function(overlap, jit_compile=True)(probabilities[0], members[0])

  for function in (in_a_loop, compiled):
    found = [t.shape.as_list() for t in graphs.tensors(function, *specs) if t.elements > LARGEST]
    assert [PIXELS, QUERIES, MASKS] in found
