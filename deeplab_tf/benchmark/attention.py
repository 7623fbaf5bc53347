"""Finds the axial and local attention layers of a network, to measure each kind separately."""

import collections
import functools
import multiprocessing
import time
from concurrent import futures
from typing import NamedTuple

import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.benchmark import measuring
from deeplab_tf.benchmark.measuring import MeasureOptions, Results
from deeplab_tf.data import catalog
from deeplab_tf.layers import folding
from deeplab_tf.layers.attention_records import AttentionRecord, recording
from deeplab_tf.layers.axial_attention import AxialAttention1D
from deeplab_tf.layers.local_attention import LocalAttention2D
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.layers.position_sensitive import AttentionOptions, PositionSensitiveAttention
from deeplab_tf.training import precision
from deeplab_tf.user_errors import UsageError


class AttentionForm(NamedTuple):
  """The parameters that determine the cost of an attention layer.

  Attributes:
    shape: Shape of the input for one image: [rows, length, channels] for axial attention, where
      rows are the lines along the axis, or [1, height, width, channels] for local attention.
    key_channels: Number of channels of queries and of keys, over all heads.
    value_channels: Number of channels of values, over all heads.
    num_heads: Number of heads.
    options: Options of the layer.
  """
  shape: tuple[int, ...]
  key_channels: int
  value_channels: int
  num_heads: int
  options: AttentionOptions

  def make(self) -> PositionSensitiveAttention:
    """Returns a layer of this form."""
    kind = LocalAttention2D if self.options.kind == 'local' else AxialAttention1D
    return kind(self.shape[-1], self.key_channels, self.value_channels, self.num_heads,
                norm=BatchNorm, options=self.options)

  def __str__(self) -> str:
    size = 'x'.join(str(n) for n in self.shape[1:-1])
    size += f' ({self.shape[0]} rows)' if self.options.kind == 'axial' else ''
    span = f'span {self.options.span}' if self.options.span else 'whole axis'
    return (f'{self.options.kind} {size}, {self.shape[-1]}-{self.key_channels}-'
            f'{self.value_channels} channels, {self.num_heads} heads, {span}')


def find(config, input_size: tuple[int, int]) -> dict[AttentionForm, int]:
  """Returns the attention forms in the network of a config, with the number of layers of each.

  Args:
    config: ExperimentOptions.
    input_size: Height and width of the image.
  """
  # In a graph that never runs, no weights are initialized and no memory is allocated.
  with tf.Graph().as_default():
    model = models.architecture(config).build(config, catalog.from_config(config))
    with recording() as records:
      model(tf.compat.v1.placeholder(tf.float32, [1, *input_size, 3]), training=False)
  return dict(collections.Counter(_form(record) for record in records
                                  if isinstance(record.layer, PositionSensitiveAttention)))


def _form(record: AttentionRecord) -> AttentionForm:
  layer, (x,) = record.layer, record.inputs
  keys, _, values = layer.sizes
  return AttentionForm(tuple(x.shape.as_list()), keys, values, layer.num_heads, layer.options)


def infer(layer: PositionSensitiveAttention, x: tf.Tensor) -> tf.Tensor:
  """Returns a scalar that depends on the whole output of a layer at inference."""
  return tf.reduce_sum(layer(x, training=False))


def train(layer: PositionSensitiveAttention, x: tf.Tensor) -> tf.Tensor:
  """Returns a scalar that depends on all gradients of a layer and its input in training."""
  with tf.GradientTape() as tape:
    tape.watch(x)
    loss = tf.reduce_sum(layer(x, training=True)**2)
  gradients = tape.gradient(loss, [x, *layer.trainable_variables])
  return loss + tf.add_n([tf.reduce_sum(g) for g in gradients])


def measure(config, options: MeasureOptions) -> Results:
  """Measures one layer of each attention form in a network, along one axis.

  Args:
    config: ExperimentOptions.
    options: Input size, batch size and number of repeats.

  Raises:
    UsageError: The network has no attention, or a layer needs more memory than available.
  """
  forms = find(config, options.input_size)
  if not forms:
    raise UsageError('the network of the config has no axial or local attention')
  precision_name = config.trainer_options.Precision.Name(config.trainer_options.precision)
  results = {}
  for form, count in forms.items():
    for name in ('inference', 'train step'):
      # The exported program computes in float32.
      result = _in_a_process(f'{form}, {name}', form, name == 'train step',
                             precision_name if name == 'train step' else 'FLOAT32', options)
      results[f'{form}, {name}'] = {'layers': count, **result}
  return results


def _in_a_process(name: str, *arguments) -> dict[str, float]:
  """Measures a layer in a separate process, so that the peak memory is that of this layer."""
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
    job = pool.submit(_measure_layer, *arguments)
    try:
      return job.result()
    except futures.process.BrokenProcessPool:
      raise UsageError(f'{name}: its process was ended, most likely for want of memory; give '
                       'a smaller --input_size or --batch_size') from None


def _measure_layer(form: AttentionForm, in_training: bool, precision_name: str,
                   options: MeasureOptions) -> dict[str, float]:
  start = time.perf_counter()
  with precision.scope(precision_name):
    layer = form.make()
  if not in_training:
    folding.fold_norms(layer)
  x = tf.random.stateless_normal([options.batch_size * form.shape[0], *form.shape[1:]], [0, 0])
  function = tf.function(functools.partial(train if in_training else infer, layer),
                         jit_compile=options.jit_compile, autograph=False)
  result = measuring.calls(start, lambda: function(x).numpy(), options.repeats,
                           options.batch_size)
  return {**result, 'peak_gb': measuring.peak_gb()}
