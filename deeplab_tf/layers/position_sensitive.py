"""Position-sensitive self-attention (Axial-DeepLab, equations 3 and 4): its options and base class.

Queries, keys and values each have a learned vector per relative position, and batch norms
replace the scaling by 1 / sqrt(channels). Each positional term and the batch norms can be
left out, as in the comparisons of tables 1 and 6.
"""

from typing import NamedTuple, Optional, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.convolution import add_bias, folded_weight, project, split_channels
from deeplab_tf.layers.normalization import BatchNorm, NormFactory, scaled
from deeplab_tf.layers.product_moments import pays, positional_moments, product_moments
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.user_errors import ConfigError

# Tables cover relative positions from -254 to 254, as in DeepLab2. Larger ones are clipped.
MAX_DISTANCE = 254
# Number that is added to the logits of positions outside of the span.
_MASKED = -1e9
# Letters of einsums: n is a row or a block of one, l a query, m a key, h a head, d a channel.
_LOGITS = 'nhlm'
_CONTENT = 'nlhd,nmhd->nhlm'
_QUERY_POSITION = 'nlhd,lmd->lnhm'
_KEY_POSITION = 'nmhd,lmd->mnhl'
_VALUE = 'nhlm,nmhd->nlhd'
_VALUE_POSITION = 'nhlm,lmd->lnhd'
# With transposed weights, since einsum's gradient is slower; XLA's inference is faster without.
_VALUE_POSITION_IN_TRAINING = 'lnhm,lmd->lnhd'


class AttentionOptions(NamedTuple):
  """Options of an attention layer.

  Attributes:
    kind: Kind in residual blocks: 'axial', along the height and then the width (equation 4), or
      'local', over a square region (equation 3).
    span: Number of positions along an axis that a query sees, with itself in the middle (the
      paper's m), odd; 0: all, for axial attention only.
    query_positions: Whether logits have the query's positional term.
    key_positions: Whether logits have the key's positional term.
    value_positions: Whether values have a positional term.
    normalized: Whether projections, logits and outputs have batch norms.
    max_distance: Largest distance with a vector of its own; larger ones share the last.
    stride_by: Method of a strided layer: 'subsampling', which in axial attention strides each axis
      after its own layer; or 'average', average pooling at the end.
  """
  kind: str = 'axial'
  span: int = 0
  query_positions: bool = True
  key_positions: bool = True
  value_positions: bool = True
  normalized: bool = True
  max_distance: int = MAX_DISTANCE
  stride_by: str = 'subsampling'


# Attention over the whole axis, with all terms.
AXIAL = AttentionOptions()


def check_span(kind: str, span: int, name: str = 'the span of attention') -> None:
  """Checks the span of an attention layer.

  Args:
    kind: See AttentionOptions.
    span: See AttentionOptions.
    name: Name of the span in errors.

  Raises:
    ValueError: The span is negative or even, or it is 0 and the attention is local.
  """
  whole_axis = kind == 'axial' and span == 0
  if not whole_axis and (span < 1 or span % 2 == 0):
    raise ConfigError(f'{name} is {span}: {kind} attention needs an odd number, so that the query '
                      'is in the middle' + (', or 0 for all positions' if kind == 'axial' else ''))


class RelativePositions(keras.layers.Layer):
  """A table of vectors, one per distance between two positions of an axis.

  Attributes:
    embeddings: float32 [2 * max_distance + 1, channels].
  """

  def __init__(self, channels: int, max_distance: int = MAX_DISTANCE, stddev: float = 1.0):
    """Initializes the layer.

    Args:
      channels: Channels of a vector.
      max_distance: Largest distance with a vector of its own.
      stddev: Standard deviation of the initial values.
    """
    super().__init__()
    self.max_distance = max_distance
    self.embeddings = self.add_weight(
        'embeddings', (2 * max_distance + 1, channels),
        initializer=keras.initializers.TruncatedNormal(stddev=stddev))

  def fit_saved_value(self, variable: tf.Variable, value: np.ndarray) -> Optional[np.ndarray]:
    """Fits a saved table of another size: cuts off rows at both ends, or repeats the end rows.

    Distance 0 stays in the middle, and distances beyond the saved table get the vector of its
    largest distance, as clipping does.

    Args:
      variable: `embeddings`.
      value: [rows, channels], from a checkpoint.

    Returns:
      An array of the variable's shape, or None if the value is not a table with as many channels.
    """
    rows, channels = variable.shape
    if value.ndim != 2 or value.shape[1] != channels or value.shape[0] % 2 == 0:
      return None
    margin = (rows - value.shape[0]) // 2
    if margin < 0:
      return value[-margin:margin]
    return np.pad(value, ((margin, margin), (0, 0)), mode='edge')

  def call(self, length: Dimension, flange: int = 0) -> tf.Tensor:
    """Looks up the vectors between queries and the keys around them.

    Args:
      length: Number of queries in a row.
      flange: Number of keys before the first query and after the last.

    Returns:
      float32 [length, length + 2 * flange, channels]: for query l and key m the vector of
      distance m - flange - l.
    """
    reach = self.max_distance
    # Keras converts numbers to tensors. Places are constants if the length is known.
    known = tf.get_static_value(length)
    # The reshape, or the slice, makes the table's gradient dense, which clipping by norm needs.
    if known is None:
      keys = tf.range(length + 2 * flange) - flange
      distances = keys[None] - tf.range(length)[:, None]
      rows = tf.clip_by_value(distances, -reach, reach) + reach
      return tf.gather(tf.reshape(self.embeddings, self.embeddings.shape), rows)
    distances = np.arange(-flange, known + flange)[None] - np.arange(known)[:, None]
    distances = np.clip(distances, -reach, reach)
    used = min(int(known) - 1 + flange, reach)
    return tf.gather(self.embeddings[reach - used:reach + used + 1], distances + used)


class PositionSensitiveAttention(keras.layers.Layer):
  """Base class of attention layers: projections, tables, batch norms, and the sums over terms.

  Attributes:
    qkv_kernel: float32 [in_channels, 2 * key_channels + value_channels].
    norm_qkv, norm_similarity, norm_output: BatchNorms of the projections, of each term of the
      logits per head, and of each term of the output per head and channel; or None.
    qkv_bias, similarity_scale, position_scale: Remains of the batch norms once they are folded:
      float32 [2 * key_channels + value_channels], [terms, heads], and [heads, channels] for the
      positional term of values; else None.
    query_positions, key_positions, value_positions: Tables shared by all heads, or None.
  """
  # Whether many rows have the same relative positions at the same places: the statistics of their
  # products then take less work than the products.
  ROWS_SHARE_POSITIONS = True

  def __init__(self, in_channels: int, key_channels: int, value_channels: int, num_heads: int,
               *, norm: NormFactory, options: AttentionOptions = AXIAL):
    """Initializes the layer.

    Args:
      in_channels: Channels of the input.
      key_channels: Channels of queries and of keys, over all heads.
      value_channels: Channels of values and of the output, over all heads.
      num_heads: Number of heads.
      norm: Factory of the batch norms.
      options: Form of the attention.

    Raises:
      ValueError: The channels are not divisible by the number of heads, or the span is invalid.
    """
    super().__init__()
    check_span(options.kind, options.span)
    if key_channels % num_heads or value_channels % num_heads:
      raise ConfigError(f'{options.kind} attention: {key_channels} key and {value_channels} value '
                        f'channels do not divide into {num_heads} heads; change the multiplier')
    self.num_heads, self.options = num_heads, options
    self.sizes = [key_channels, key_channels, value_channels]
    self.qkv_kernel = self.add_weight(
        'qkv_kernel', (in_channels, sum(self.sizes)),
        initializer=keras.initializers.TruncatedNormal(stddev=in_channels**-0.5))
    keys, values = key_channels // num_heads, value_channels // num_heads
    self.norm_qkv = self.norm_similarity = self.norm_output = None
    if options.normalized:
      self.norm_qkv = norm(sum(self.sizes))
      self.norm_similarity = norm((1 + options.query_positions + options.key_positions, num_heads))
      self.norm_output = norm((1 + options.value_positions, num_heads, values))
    self.qkv_bias = self.similarity_scale = self.position_scale = None
    self.query_positions = self._table(keys) if options.query_positions else None
    self.key_positions = self._table(keys) if options.key_positions else None
    self.value_positions = self._table(values) if options.value_positions else None

  def _stddev(self, channels: int) -> float:
    """Returns the stddev of tables; small without batch norms, or their terms would dominate."""
    return 1.0 if self.options.normalized else channels**-0.5

  def fold_norms(self) -> None:
    """Folds the batch norms into the projections where possible; see folding.fold_norms.

    Attention weights sum to 1, so the offsets of the output can be folded into the values, like
    the scale of the values' term. Logits need no offset: one per head does not change a softmax.
    """
    if self.norm_qkv is None:
      return
    scale, offset = self.norm_qkv.inference_affine()
    output_scale, output_offset = self.norm_output.inference_affine()
    values = slice(-self.sizes[2], None)
    of_values = output_scale[0].reshape(-1)
    scale[values] *= of_values
    offset[values] = offset[values] * of_values + output_offset.sum(0).reshape(-1)
    self.qkv_kernel.assign(self.qkv_kernel.numpy() * scale)
    self.qkv_bias = folded_weight(self, 'qkv_bias', offset)
    self.similarity_scale = folded_weight(self, 'similarity_scale',
                                          self.norm_similarity.inference_affine()[0])
    if self.value_positions is not None:
      self.position_scale = folded_weight(self, 'position_scale', output_scale[1])
    self.norm_qkv = self.norm_similarity = self.norm_output = None

  def _project(self, x, training):
    """Returns queries, keys and values, [..., heads * channels] each."""

    def finish(qkv):
      if self.qkv_bias is not None:
        return add_bias(qkv, self.qkv_bias)
      return qkv if self.norm_qkv is None else self.norm_qkv(qkv, training=training)

    return split_channels(project(x, self.qkv_kernel, finish), self.sizes)

  def _weights(self, query, key, places, mask, training):
    """Returns the attention weights [n, heads, l, m].

    Args:
      query: [n, l, heads, channels].
      key: [n, m, heads, channels].
      places: Arguments of the calls of the position tables.
      mask: bool [blocks, 1, l, m], the keys that each query sees; n counts row by row, and in each
        row block by block. None: all keys.
      training: Whether the batch norm uses the batch's statistics.
    """
    factors = [(_CONTENT, query, key)]
    if self.query_positions is not None:
      positions = tf.cast(self.query_positions(*places), query.dtype)
      factors.append((_QUERY_POSITION, query, positions))
    if self.key_positions is not None:
      positions = tf.cast(self.key_positions(*places), key.dtype)
      factors.append((_KEY_POSITION, key, positions))
    terms = [None] * len(factors)
    scales = self.similarity_scale
    if self.norm_similarity is not None:
      mean = variance = None
      if training and not self.norm_similarity.frozen:
        mean, variance, terms = self._logit_moments(factors, mask)
      scales, offsets = self.norm_similarity.affine(mean, variance, training)
      # An offset per head does not change a softmax. Added as 0, it has a gradient, which is 0.
      scales += 0.0 * offsets
    logits = tf.add_n([_scaled_product(term, factor, None if scales is None else scales[i])
                       for i, (term, factor) in enumerate(zip(terms, factors))])
    if mask is not None:
      logits += tf.where(_for_all(mask, logits), 0.0, _MASKED)
    return tf.cast(tf.nn.softmax(logits), query.dtype)

  def _logit_moments(self, factors, mask):
    """Returns the mean and variance of the logits that are not masked, by term.

    Args:
      factors: Tuple (equation, first, second) for each term.
      mask: See _weights.

    Returns:
      Mean and variance, [terms, heads]; and for each term its logits [n, heads, l, m] or None.
    """
    terms, moments = [], []
    for equation, first, second in factors:
      if equation == _CONTENT:
        # Under a mask, whether a pair is seen depends on both vectors.
        without_logits = mask is None and pays(first, second.shape[1])
      else:
        others = second.shape[0 if equation == _KEY_POSITION else 1]
        without_logits = self.ROWS_SHARE_POSITIONS and pays(first, others)
      term = None
      if not without_logits:
        term = tf.cast(_product(equation, first, second, _LOGITS), tf.float32)
        found = _moments(term, mask)
      elif equation == _CONTENT:
        found = product_moments(*(tf.transpose(x, [0, 2, 1, 3]) for x in (first, second)))
      else:
        seen = None if mask is None else mask[:, 0]
        if equation == _KEY_POSITION:
          second = tf.transpose(second, [1, 0, 2])
          seen = None if seen is None else tf.transpose(seen, [0, 2, 1])
        found = positional_moments(first, second, seen)
      terms.append(term)
      moments.append(found)
    return *(tf.stack(m) for m in zip(*moments)), terms

  def _retrieved(self, weights, value, places, training):
    """Returns the terms of the output, [n, l, heads, channels] each."""
    terms = [_product(_VALUE, weights, value, 'nlhd')]
    if self.value_positions is not None:
      positions = tf.cast(self.value_positions(*places), value.dtype)
      equation = _VALUE_POSITION_IN_TRAINING if training else _VALUE_POSITION
      terms.append(_product(equation, weights, positions, 'nlhd'))
    return terms

  def _sum_of_outputs(self, terms, training):
    """Sums the terms [n, l, heads, channels] of all queries, each normalized on its own."""
    if self.position_scale is not None:
      content, positions = (tf.cast(t, tf.float32) for t in terms)
      return tf.cast(content + positions * self.position_scale, terms[0].dtype)
    if self.norm_output is None:
      return tf.add_n(terms)
    return tf.cast(normalized_sum(terms, self.norm_output, [0, 1], training), terms[0].dtype)


def _product(equation: str, first: tf.Tensor, second: tf.Tensor, order: str) -> tf.Tensor:
  """Returns an einsum with its axes in an order; transpositions are faster than einsum's own.

  Only attention weights are transposed before: `first` has their axes in the order of _LOGITS, and
  the equation may have another order.
  """
  inputs, axes = equation.split('->')
  wanted = inputs.split(',')[0]
  if set(wanted) == set(_LOGITS) and wanted != _LOGITS:
    first = tf.transpose(first, [_LOGITS.index(a) for a in wanted])
  result = tf.einsum(equation, first, second)
  return result if axes == order else tf.transpose(result, [axes.index(a) for a in order])


def _scaled_product(term, factor, scale):
  """Returns a term of the logits times its scale [heads] or None, float32 [n, heads, l, m].

  If `term` is None, it is computed from the factor (equation, first, second), whose first tensor is
  scaled: there are fewer queries and keys than logits.
  """
  equation, first, second = factor
  if term is not None:
    return term * scale[:, None, None]
  if scale is not None:
    first = scaled(first, scale[:, None])
  return tf.cast(_product(equation, first, second, _LOGITS), tf.float32)


def _for_all(mask, logits):
  """Repeats a mask [blocks, ...] for every row of logits [rows * blocks, ...]."""
  if mask.shape[0] == 1:
    return mask
  rows, blocks = dimensions(logits)[0], dimensions(mask)[0]
  return tf.tile(mask, [rows // blocks, 1, 1, 1])


def normalized_sum(terms: Sequence[tf.Tensor], norm: BatchNorm, reduced: Sequence[int],
                   training: bool) -> tf.Tensor:
  """Sums terms that are normalized on their own, without stacking them.

  Args:
    terms: Tensors of one shape.
    norm: Batch norm; its parameters have the terms as first axis, then the axes not reduced.
    reduced: Axes over which statistics are taken.
    training: Whether to use the terms' own statistics.

  Returns:
    float32, of the terms' shape.
  """
  terms = [tf.cast(t, tf.float32) for t in terms]
  mean = variance = None
  if training and not norm.frozen:
    mean, variance = (tf.stack(m) for m in zip(*(tf.nn.moments(t, reduced) for t in terms)))
  scale, offset = norm.affine(mean, variance, training)
  shape = [1 if i in reduced else n for i, n in enumerate(terms[0].shape.as_list())]
  total = tf.reshape(tf.reduce_sum(offset, 0), shape)
  for i, term in enumerate(terms):
    total = total + term * tf.reshape(scale[i], shape)
  return total


def _moments(x, mask):
  """Returns mean and variance [heads] of the values of [n, heads, l, m] in a mask, or of all.

  Products with the mask as a vector take a fraction of the time of elementwise products.
  """
  if mask is None:
    return tf.nn.moments(x, [0, 2, 3])
  mask = _for_all(mask, x)
  rows, heads, length, keys = dimensions(x)
  x = tf.reshape(x, [rows, heads, length * keys])
  weights = tf.reshape(tf.cast(mask, tf.float32), [-1, length * keys, 1])
  copies = tf.cast(tf.shape(x)[0] // tf.shape(weights)[0], tf.float32)
  count = tf.reduce_sum(weights) * copies
  mean = tf.reduce_sum(tf.matmul(x, weights), 0) / count
  variance = tf.reduce_sum(tf.matmul(tf.math.squared_difference(x, mean), weights), 0) / count
  return mean[:, 0], variance[:, 0]
