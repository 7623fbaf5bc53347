"""Synthetic images, ground truth and raw outputs of networks, to measure time and memory."""

from typing import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf import structures
from deeplab_tf.data import pipeline

# Number of segments in synthetic predictions and ground truth.
_SEGMENTS = 20


def training_batch(config, dataset_info, kind: str, batch: int, size: Sequence[int]):
  """Returns random images with boxes as ground-truth masks, or with random classes.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    kind: Form of the targets: 'mask', 'center' or 'class'.
    batch: Number of images.
    size: Height and width of the images.

  Returns:
    float32 [batch, height, width, 3], normalized, and the targets; see structures.py.
  """
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (batch, *size, 3)).astype(np.float32)
  if kind == 'class':
    classes = rng.integers(0, dataset_info.num_classes, batch, dtype=np.int32)
    return tf.constant(images), structures.ClassTargets(tf.constant(classes))
  labels = [_label(rng, config.train_dataset_options, dataset_info, size) for _ in range(batch)]
  make = pipeline.target_function(config.train_dataset_options, dataset_info, kind)
  made = [make(label, structures.LabeledImage(tf.zeros([*size, 3], tf.uint8), label,
                                              tf.constant('synthetic'))) for label in labels]
  return tf.constant(images), tf.nest.map_structure(lambda *parts: tf.stack(parts), *made)


def _label(rng: np.random.Generator, options, info, size: Sequence[int]):
  """Returns a label with boxes, as a data set of these classes has it; see LabeledImage."""
  height, width = size
  # max_thing_id limits things alone.
  instances = min(_SEGMENTS, options.max_thing_id) if info.thing_class_ids else _SEGMENTS
  classes = rng.choice(info.thing_class_ids or info.class_ids, instances)
  corners = rng.integers(0, (height * 3 // 4, width * 3 // 4), (instances, 2))
  boxes = [np.s_[y:y + height // 4, x:x + width // 4] for y, x in corners]
  if info.masks_overlap:
    masks = np.zeros((*size, instances), bool)
    for instance, box in enumerate(boxes):
      masks[(*box, instance)] = True
    return structures.InstanceLabel(
        tf.constant(np.packbits(masks, axis=-1, bitorder='little')),
        tf.constant(classes, tf.int32), tf.zeros([instances], tf.bool), tf.zeros([instances]))
  label = np.full(size, (info.stuff_class_ids or [info.ignore_label])[-1] * info.label_divisor,
                  np.int32)
  for instance, (class_id, box) in enumerate(zip(classes, boxes), start=1):
    is_thing = info.by_class_id[int(class_id)].isthing
    label[box] = class_id * info.label_divisor + (instance if is_thing else 0)
  return tf.constant(label)


def confidence(queries: int, outputs: int) -> np.ndarray:
  """Returns class logits with which some queries predict a class and the others "no object".

  Args:
    queries: Number of queries.
    outputs: Number of classes, including "no object".

  Returns:
    float32 [queries, outputs].
  """
  logits = np.zeros((queries, outputs), np.float32)
  kept = min(_SEGMENTS, queries)
  logits[np.arange(kept), np.arange(kept) % (outputs - 1)] = 30
  logits[kept:, -1] = 30
  return logits


def mask_outputs(config, dataset_info, batch: int, size: Sequence[int]) -> dict[str, tf.Tensor]:
  """Returns synthetic raw outputs of a mask model, in which some queries are confident.

  Args:
    config: ExperimentOptions of the model.
    dataset_info: The classes.
    batch: Number of images.
    size: Height and width of the outputs.
  """
  options = getattr(config.model_options, config.model_options.WhichOneof('meta_architecture'))
  queries, classes = options.num_queries, len(dataset_info.class_ids) + 1
  return {'mask_logits': _blobs(batch, size, queries),
          'class_logits': tf.tile(confidence(queries, classes)[None], [batch, 1, 1])}


def center_outputs(config, dataset_info, batch: int, size: Sequence[int]) -> dict[str, tf.Tensor]:
  """Returns synthetic raw outputs of a center model with some centers; see `mask_outputs`."""
  del config
  return {'semantic_logits': _blobs(batch, size, dataset_info.num_classes),
          'center_heatmap': centers(batch, size), 'center_offsets': _blobs(batch, size, 2)}


def centers(batch: int, size: Sequence[int]) -> np.ndarray:
  """Returns a heatmap with a few centers, float32 [batch, *size, 1]."""
  heatmap = np.zeros((batch, *size, 1), np.float32)
  places = np.random.default_rng(0).integers(0, size, (_SEGMENTS, 2))
  heatmap[:, places[:, 0], places[:, 1]] = 0.9
  return heatmap


def _blobs(batch: int, size: Sequence[int], channels: int):
  """Returns random maps with smooth regions instead of noise."""
  return tf.image.resize(tf.random.normal([batch, 12, 12, channels], stddev=8.0), size)
