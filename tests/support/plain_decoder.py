"""Transformer decoder layers of Mask2Former and MaskFormer in plain numpy, in float64."""

import math

import numpy as np


def linear(layer, x):
  """Returns a linear map of the last axis; a 1x1 convolution is one, too."""
  kernel = layer.kernel.numpy().astype(np.float64)
  return np.asarray(x, np.float64) @ kernel.reshape(kernel.shape[-2:]) + layer.bias.numpy()


def norm(layer, x):
  centered = x - x.mean(-1, keepdims=True)
  scale = 1 / np.sqrt(centered.var(-1, keepdims=True) + 1e-5)
  return centered * scale * layer.gamma.numpy() + layer.beta.numpy()


def nothing_dropped(x):
  return x


def attention(layer, queries, keys, values, blocked=None, modulation=None, drop=nothing_dropped):
  """Multi-head attention; `modulation` is a factor [batch, heads, queries, keys] of the weights."""
  q, k, v = (linear(projection, x) for projection, x in (
      (layer.query, queries), (layer.key, keys), (layer.value, values)))
  depth = q.shape[-1] // layer.num_heads
  parts = [slice(i * depth, (i + 1) * depth) for i in range(layer.num_heads)]
  logits = np.stack([q[..., part] @ np.swapaxes(k[..., part], 1, 2) / math.sqrt(depth)
                     for part in parts], 1)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  if modulation is not None:
    weights = weights * modulation
  if blocked is not None:
    weights = np.where(np.asarray(blocked)[:, None], 0, weights)
  weights = drop(weights / weights.sum(-1, keepdims=True))
  heads = [weights[:, i] @ v[..., part] for i, part in enumerate(parts)]
  return linear(layer.output_projection, np.concatenate(heads, -1))


def gaussian(layer, queries, sizes):
  """SMCA's Gaussian [batch, heads, queries, keys], one value at a time."""
  centers = 1 / (1 + np.exp(-linear(layer.center, np.maximum(linear(layer.hidden, queries), 0))))
  heads = linear(layer.offsets_and_scales, queries)
  batch, count, _ = heads.shape
  found = np.zeros((batch, layer.num_heads, count, sum(h * w for h, w in sizes)))
  for image, head, query in np.ndindex(found.shape[:3]):
    offset_y, offset_x, scale_y, scale_x = heads[image, query, 4 * head:4 * head + 4]
    y, x = centers[image, query] + (offset_y, offset_x)
    found[image, head, query] = [
        math.exp(-((row + 0.5) / height - y)**2 / (scale_y**2 / 8 + 0.001)
                 - ((column + 0.5) / width - x)**2 / (scale_x**2 / 8 + 0.001))
        for height, width in sizes for row in range(height) for column in range(width)]
  return found


def mask_pooling(layer, features, blocked):
  """The mean over the pixels that are not blocked of their values, [batch, queries, channels]."""
  values = linear(layer.value, features)
  return linear(layer.output_projection, np.array([
      [own[~row].mean(0) for row in rows] for own, rows in zip(values, np.asarray(blocked))]))


def decoder_layer(layer, x, positions, memory, blocked=None, drop=nothing_dropped):
  """A decoder layer.

  Args:
    layer: MaskedDecoderLayer, whose attributes say which form it has.
    x, positions, memory, blocked: As the layer takes them.
    drop: Dropout; it is called in the order of the network.
  """
  positions, values, keys = (np.asarray(n, np.float64) for n in (
      positions, memory.values, memory.keys))

  def read(x):
    if layer.pools_masks:
      everything = np.zeros((*x.shape[:2], values.shape[1]), bool)
      return mask_pooling(layer.cross_attention, values,
                          everything if blocked is None else blocked)
    modulation = layer.modulation and gaussian(layer.modulation, x + positions, memory.sizes)
    return attention(layer.cross_attention, x + positions, keys, values, blocked, modulation, drop)

  def exchange(x):
    return attention(layer.self_attention, x + positions, x + positions, x, drop=drop)

  def feed_forward(x):
    return linear(layer.fc2, drop(np.maximum(linear(layer.fc1, x), 0)))

  branches = [(layer.cross_norm, read), (layer.self_norm, exchange)]
  if layer.self_attention_first:
    branches.reverse()
  x = np.asarray(x, np.float64)
  for own_norm, branch in [*branches, (layer.feed_forward_norm, feed_forward)]:
    if layer.pre_norm:
      x = x + drop(branch(norm(own_norm, x)))
    else:
      x = norm(own_norm, x + drop(branch(x)))
  return x


def heads(decoder, queries, mask_features):
  """Returns class logits, and mask logits [batch, h, w, queries], of a MaskedAttentionDecoder."""
  z = norm(decoder.norm, np.asarray(queries, np.float64))
  first, second, third = decoder.mask_head
  embedding = linear(third, np.maximum(linear(second, np.maximum(linear(first, z), 0)), 0))
  return linear(decoder.class_head, z), np.einsum('bqc,bhwc->bhwq', embedding, mask_features)


def sine_embedding(height, width, channels):
  """Returns DETR's position embedding [height * width, channels], one value at a time."""
  half = channels // 2

  def value(position, length, channel):
    angle = (position + 1) / (length + 1e-6) * 2 * math.pi
    angle /= 10000**(2 * (channel // 2) / half)
    return math.cos(angle) if channel % 2 else math.sin(angle)

  return np.array([[value(row, height, c) for c in range(half)]
                   + [value(column, width, c) for c in range(half)]
                   for row in range(height) for column in range(width)])
