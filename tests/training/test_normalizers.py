"""Losses that are divided by sums over the global batch, on parts and on replicas, against numpy.

The criterion has the normalizers of Mask2Former: the number of masks, at least 1, and the sum of
the class weights of the queries. Both terms are summed over the decoder layers.
"""

import json
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import structures
from deeplab_tf.architecture import parameter_groups
from deeplab_tf.compat import keras
from deeplab_tf.losses.criterion import Criterion, CriterionResult, are_finite, losses_of_layers
from deeplab_tf.protos import trainer_pb2
from deeplab_tf.training import optimizers
from deeplab_tf.training.state import TrainingState
from deeplab_tf.training.trainer import StepOptions, Trainer

BATCH, SIDE, QUERIES, CLASSES, LAYERS = 4, 3, 3, 2, 2
WEIGHTS = {'mask_loss': 5.0, 'class_loss': 2.0}
NO_OBJECT = 0.1
# Of the first step.
RATE = 0.1
KERNELS = np.random.default_rng(1).normal(size=(LAYERS, 3, QUERIES)).astype(np.float32)
# Very different in the two halves of the batch, and none in one image.
MASKS_OF_IMAGES = [3, 3, 0, 1]


class Network(keras.Model):
  """Two decoder layers of a matrix each, which gives mask logits and class logits."""

  def __init__(self):
    super().__init__()
    self.kernels = [self.add_weight(f'kernel_{i}', kernel.shape,
                                    initializer=keras.initializers.Constant(kernel))
                    for i, kernel in enumerate(KERNELS)]

  def call(self, images, training=False):
    layers = []
    for kernel in self.kernels:
      logits = images @ kernel
      classes = tf.transpose(tf.reshape(logits, [-1, SIDE * SIDE, QUERIES]), [0, 2, 1])
      layers.append({'mask_logits': logits, 'class_logits': classes[..., :CLASSES + 1]})
    return structures.join_layers(layers) if training else layers[-1]


class NormalizedCriterion(Criterion):
  """Query i is matched with mask i."""

  def normalizers(self, targets):
    is_mask = tf.cast(targets.mask_classes >= 0, tf.float32)
    return {'masks': tf.reduce_sum(is_mask),
            'class_weights': tf.reduce_sum(is_mask + NO_OBJECT * (1 - is_mask))}

  def call(self, outputs, targets, normalizers):
    is_mask = targets.mask_classes >= 0
    labels = tf.one_hot(targets.mask_ids, QUERIES)
    classes = tf.where(is_mask, targets.mask_classes, CLASSES)

    def layer_losses(layer):
      pixels = tf.nn.sigmoid_cross_entropy_with_logits(labels, layer['mask_logits'])
      own = tf.where(is_mask, tf.reduce_mean(pixels, [1, 2]), 0.0)
      entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(classes, layer['class_logits'])
      weighted = tf.where(is_mask, 1.0, NO_OBJECT) * entropies
      return {'mask_loss': (WEIGHTS['mask_loss'] * tf.reduce_sum(own)
                            / tf.maximum(normalizers['masks'], 1.0)),
              'class_loss': (WEIGHTS['class_loss'] * tf.reduce_sum(weighted)
                             / normalizers['class_weights'])}

    losses, weights = losses_of_layers(layer_losses, structures.split_layers(outputs), WEIGHTS)
    return CriterionResult(losses, weights, tf.add_n(list(losses.values())), {},
                           are_finite(outputs))


def batch_of(step, masks_of_images=MASKS_OF_IMAGES):
  """Returns (images, MaskTargets) of numpy arrays."""
  rng = np.random.default_rng(step)
  images = rng.normal(size=(BATCH, SIDE, SIDE, 3)).astype(np.float32)
  classes = np.full((BATCH, QUERIES), -1, np.int32)
  ids = np.full((BATCH, SIDE, SIDE), -1, np.int32)
  for i, masks in enumerate(masks_of_images):
    classes[i, :masks] = rng.integers(0, CLASSES, masks)
    ids[i] = rng.integers(-1, masks, (SIDE, SIDE))
  flags = np.zeros((BATCH, QUERIES), bool)
  return images, structures.MaskTargets(ids, np.ones_like(ids, np.float32), ids, classes, flags)


def make(strategy=None, masks_of_images=MASKS_OF_IMAGES, **options):
  """Returns (trainer, the list that the outputs of its steps are added to)."""
  strategy = strategy or tf.distribute.OneDeviceStrategy('/cpu:0')
  solver = trainer_pb2.SolverOptions(base_learning_rate=RATE, training_number_of_steps=100,
                                     optimizer='sgd')
  with strategy.scope():
    model = Network()
    step = tf.Variable(0, dtype=tf.int64, trainable=False,
                       aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
    optimizer = optimizers.build(solver, model.trainable_variables,
                                 parameter_groups(model.trainable_variables))
    optimizer.build()
  replicas = strategy.num_replicas_in_sync

  def share(array):
    parts = [tf.constant(part) for part in np.split(array, replicas)]
    return parts[0] if replicas == 1 else strategy.experimental_distribute_values_from_function(
        lambda context: parts[context.replica_id_in_sync_group])

  def batches(start):
    while True:
      yield tf.nest.map_structure(share, batch_of(start, masks_of_images))
      start += 1

  seen = []
  trainer = Trainer(
      strategy=strategy, state=TrainingState(model, step, optimizer, None, None),
      criterion=NormalizedCriterion(), batches=batches, options=StepOptions(BATCH, **options),
      on_step=lambda number, output, seconds: seen.append(output))
  return trainer, seen


def figures(trainer, seen) -> list[dict]:
  """Trains two steps, the second of which depends on the gradients of the first."""
  trainer.train(2)
  return [{**{name: float(x) for name, x in o.losses.items()},
           **{f'{name} unweighted': float(x) for name, x in o.unweighted_losses.items()},
           'gradient norm': float(o.gradient_norm)} for o in seen]


def numpy_losses(kernels, images, targets) -> dict:
  """The terms of the whole batch by their definition, with the weights."""
  masks, weights = 0, 0.0
  sums = dict.fromkeys([f'{name}{i}' for name in WEIGHTS for i in ('', '_0')], 0.0)
  for image, ids, classes in zip(images.astype(np.float64), targets.mask_ids,
                                 targets.mask_classes):
    for query, label in enumerate(classes):
      masks += label >= 0
      weights += 1.0 if label >= 0 else NO_OBJECT
      for suffix, kernel in zip(('_0', ''), kernels):
        logits = image @ kernel[:, query]
        bce = np.logaddexp(0, logits) - logits * (ids == query)
        scores = logits.reshape(-1)[:CLASSES + 1]
        entropy = np.logaddexp.reduce(scores) - scores[label if label >= 0 else CLASSES]
        sums[f'mask_loss{suffix}'] += bce.mean() if label >= 0 else 0.0
        sums[f'class_loss{suffix}'] += entropy if label >= 0 else NO_OBJECT * entropy
  factors = {'mask_loss': WEIGHTS['mask_loss'] / max(1, masks),
             'class_loss': WEIGHTS['class_loss'] / weights}
  return {name: factors[name.removesuffix('_0')] * value for name, value in sums.items()}


def numpy_gradients(kernels, batch) -> np.ndarray:
  """The gradients of the sum of the terms, by central differences."""
  flat, h = np.stack(kernels).astype(np.float64).ravel(), 1e-5

  def total(values):
    return sum(numpy_losses(values.reshape(LAYERS, 3, QUERIES), *batch).values())

  return np.array([(total(flat + h * e) - total(flat - h * e)) / (2 * h)
                   for e in np.eye(flat.size)])


def expected_figures(masks_of_images=MASKS_OF_IMAGES) -> list[dict]:
  """The figures of two steps of gradient descent, computed with numpy alone."""
  kernels, found = KERNELS, []
  for step in range(2):
    batch = batch_of(step, masks_of_images)
    losses = numpy_losses(kernels, *batch)
    gradients = numpy_gradients(kernels, batch)
    found.append({
        **losses, 'total': sum(losses.values()), 'gradient norm': np.linalg.norm(gradients),
        **{f'{name} unweighted': loss / WEIGHTS[name.removesuffix('_0')]
           for name, loss in losses.items()}})
    kernels = kernels - RATE * gradients.reshape(kernels.shape)
  return found


@pytest.mark.parametrize('options', [
    {}, {'jit_compile': True}, {'accumulation_steps': 2}, {'accumulation_steps': 4},
    {'accumulation_steps': 4, 'jit_compile': True}], ids=str)
def test_one_device_divides_by_the_sums_over_the_batch(options):
  for found, expected in zip(figures(*make(**options)), expected_figures()):
    assert found == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize('parts', [1, 4])
def test_without_any_mask_the_lower_limit_divides(parts):
  none = [0] * BATCH
  found = figures(*make(masks_of_images=none, accumulation_steps=parts))
  for step, expected in zip(found, expected_figures(none)):
    assert step == pytest.approx(expected, rel=2e-5)
    assert step['mask_loss'] == 0.0 and step['class_loss'] > 0.0


def test_normalizers_of_parts_add_up():
  targets = batch_of(0)[1]
  criterion = NormalizedCriterion()
  whole = criterion.normalizers(targets)
  parts = [criterion.normalizers(tf.nest.map_structure(lambda x, i=i: x[i:i + 1], targets))
           for i in range(BATCH)]
  assert whole['masks'] == 7 and float(whole['class_weights']) == pytest.approx(7.5)
  for name, value in whole.items():
    assert float(sum(part[name] for part in parts)) == pytest.approx(float(value))


def test_a_mean_over_parts_would_be_another_loss():
  """The numbers that the tests above compare tell the sums from means of means."""
  images, targets = batch_of(0)
  whole = numpy_losses(KERNELS, images, targets)
  halves = [numpy_losses(KERNELS, images[own], targets._replace(
      mask_ids=targets.mask_ids[own], mask_classes=targets.mask_classes[own]))
            for own in (slice(0, 2), slice(2, 4))]
  for name, loss in whole.items():
    # The tests above allow 2e-5.
    assert abs(np.mean([half[name] for half in halves]) - loss) > 1e-3 * loss, name


REPLICAS = textwrap.dedent("""
    import json
    import sys
    sys.path[:0] = [{folder!r}]
    import tensorflow as tf
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    import test_normalizers
    devices = ['/cpu:0', '/cpu:1']
    mirrored = tf.distribute.MirroredStrategy(devices)
    found = [test_normalizers.figures(*test_normalizers.make(mirrored, **options)) for options in (
        dict(), dict(accumulation_steps=2), dict(jit_compile=True),
        dict(jit_compile=True, accumulation_steps=2))]
    # Collectives, as between machines and GPUs.
    workers = tf.distribute.MultiWorkerMirroredStrategy._from_local_devices(devices)
    found.append(test_normalizers.figures(*test_normalizers.make(workers, accumulation_steps=2)))
    print(json.dumps(found))
""")


def test_two_replicas_divide_by_the_sums_over_the_batch():
  # A process of its own: logical devices are set before TensorFlow starts.
  program = REPLICAS.format(folder=str(pathlib.Path(__file__).parent))
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True,
                        check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  runs = json.loads(done.stdout.splitlines()[-1])
  assert len(runs) == 5
  for run in runs:
    for found, expected in zip(run, expected_figures()):
      assert found == pytest.approx(expected, rel=2e-5)
