"""Reports on an experiment without training: layers, shapes, memory and checks of the data."""

import collections
import math
from typing import Iterable, NamedTuple

import numpy as np
import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.architecture import TargetForm
from deeplab_tf.classes import ImageClasses
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.layers import recomputation
from deeplab_tf.structures import ClassTargets, MaskTargets, OverlappingMaskTargets
from deeplab_tf.training import batches, distribution, state

# Smallest number of images that the checks of the data use.
_CHECKED_IMAGES = 32
# Number of most frequent image classes that are listed.
_LISTED_CLASSES = 10
# Operations whose output shares memory with another tensor, or is not an activation.
_FREE_OPS = ('Identity', 'Reshape', 'ReadVariableOp', 'Const', 'ExpandDims', 'Squeeze',
             'StopGradient', 'Placeholder', 'ResourceGather')


class DataReport(NamedTuple):
  """Content of a few training batches.

  Attributes:
    images: Number of images.
    class_pixels: Class id -> share of all pixels, including the ignore label.
    masks: Number of ground-truth masks with pixels, per image; empty for center models.
    things: Number of thing masks, per image; empty for center models and for masks that may
      overlap, which are all things.
  """
  images: int
  class_pixels: dict
  masks: list
  things: list


def run(config, strategy: tf.distribute.Strategy) -> None:
  """Prints the report of an experiment without training.

  Args:
    config: ExperimentOptions.
    strategy: The devices of the training.
  """
  print(*distribution.describe(strategy), sep='\n')
  dataset_info = catalog.from_config(config)
  architecture = models.architecture(config)
  batch_size = config.train_dataset_options.batch_size
  distribution.check(config, strategy)
  per_replica = distribution.per_replica_batch(strategy, config)
  model, _ = state.build_model(config, dataset_info, architecture, strategy)
  print('\nlayers', *layer_table(model), sep='\n')
  one_device = tf.distribute.get_strategy()
  iterator = batches.training(config, dataset_info, architecture.target_form, one_device, 0)
  batch = next(iterator)
  criterion = architecture.build_criterion(config, dataset_info)
  graph, shapes = _trace(model, criterion, batch, per_replica)
  print('\none batch', *_shape_lines(batch, shapes), sep='\n')
  print('\nmemory per device, expected', *memory_lines(config, model, graph), sep='\n')
  examples = _enough(batch, iterator, batch_size)
  if architecture.target_form is TargetForm.CLASS:
    lines = class_lines(examples, dataset_info)
  else:
    lines = data_lines(inspect_data(examples, dataset_info), dataset_info, _queries(config))
  print('\ntraining data', *lines, sep='\n')


def layer_table(model: keras.Model) -> list[str]:
  """Returns a line for each layer of a model with its parameters, two levels deep."""
  lines = []
  for name, layer in _parts(model):
    lines.append(_layer_line(f'  {name}', layer))
    lines += [_layer_line(f'    {child_name}', child) for child_name, child in _parts(layer)]
  for title, variables in (('total', model.variables), ('trainable', model.trainable_variables)):
    lines.append(f'  {title:<58} {_count(variables):>12,}')
  return lines


def _layer_line(name: str, layer) -> str:
  return f'{name:<34} {type(layer).__name__:<25} {_count(layer.variables):>12,}'


def _parts(layer) -> list:
  """Returns (attribute name, layer) of the layers in a layer's attributes and lists, in order."""
  view = tf.train.TrackableView(layer)
  found = {}
  # A model also tracks each layer as "layer-0" and so on; attributes come first.
  for name, child in sorted(view.children(layer).items(), key=lambda x: x[0].startswith('layer')):
    if isinstance(child, keras.layers.Layer):
      found.setdefault(id(child), (name, child))
    elif isinstance(child, (list, tuple)):
      for i, item in enumerate(child):
        if isinstance(item, keras.layers.Layer):
          found.setdefault(id(item), (f'{name}[{i}]', item))
  return list(found.values())


def _count(variables) -> int:
  return sum(math.prod(v.shape) for v in variables)


def _trace(model, criterion, batch, per_replica):
  """Traces forward pass and losses; returns the graph and name -> shape of outputs and losses."""
  found = {}

  @tf.function(autograph=False)
  def forward(images, targets):
    outputs = model(images, training=True)
    result = criterion(outputs, targets)
    found.update({f'output {name}': (x.dtype.name, x.shape) for name, x in outputs.items()})
    found.update({f'loss {name}': (x.dtype.name, x.shape) for name, x in result.losses.items()})
    return result.total

  specs = tf.nest.map_structure(
      lambda x: tf.TensorSpec([per_replica, *x.shape[1:]], x.dtype), batch)
  return forward.get_concrete_function(*specs).graph, found


def _shape_lines(batch, shapes) -> list[str]:
  images, targets = batch
  lines = {'images': (images.dtype.name, images.shape)}
  lines.update({name: (x.dtype.name, x.shape) for name, x in targets._asdict().items()})
  lines.update(shapes)
  return [f'  {name:<40} {dtype} {shape.as_list()}' for name, (dtype, shape) in lines.items()]


def memory_lines(config, model: keras.Model, graph: tf.Graph) -> list[str]:
  """Returns lines with the memory of a train step, estimated from variables and forward graph."""
  weights = sum(math.prod(v.shape) * v.dtype.size for v in model.variables)
  trained = sum(math.prod(v.shape) * v.dtype.size for v in model.trainable_variables)
  options = config.trainer_options
  slots = {'sgd': 1, 'radam_lookahead': 3}.get(options.solver_options.optimizer, 2)
  parts = {'weights': weights, 'gradients': trained, 'optimizer': slots * trained,
           'activations (at most)': _activations(graph)}
  if options.ema_decay:
    parts['average of the weights'] = weights
  lines = [f'  {name:<40} {size / 2**20:10,.0f} MiB' for name, size in parts.items()]
  return lines + [f'  {"total":<40} {sum(parts.values()) / 2**20:10,.0f} MiB']


def _activations(graph: tf.Graph) -> int:
  """Returns the bytes of all kept activations plus those of the largest recomputed region."""
  kept, recomputed = 0, collections.Counter()
  for operation in graph.get_operations():
    region = recomputation.region(operation)
    if operation.type == 'IdentityN':
      # Follows a recomputed region; its inputs from the region are results that are kept.
      kept += sum(_bytes(tensor) for tensor in operation.inputs
                  if recomputation.region(tensor.op) is not None)
    elif operation.type not in _FREE_OPS:
      size = sum(_bytes(tensor) for tensor in operation.outputs)
      if region is None:
        kept += size
      else:
        recomputed[region] += size
  return kept + max(recomputed.values(), default=0)


def _bytes(tensor) -> int:
  if not tensor.shape.is_fully_defined() or not tensor.dtype.is_floating:
    return 0
  return tensor.shape.num_elements() * tensor.dtype.size


def _enough(first, iterator: Iterable, batch_size: int) -> Iterable:
  yield first
  for _ in range(math.ceil(_CHECKED_IMAGES / batch_size) - 1):
    yield next(iterator)


def inspect_data(examples: Iterable, dataset_info) -> DataReport:
  """Counts classes and masks in training batches (images, targets)."""
  pixels, masks, things, images = {}, [], [], 0
  for _, targets in examples:
    if isinstance(targets, OverlappingMaskTargets):
      images += _add_overlapping(targets, dataset_info, pixels, masks)
      continue
    images += targets.semantic_map.shape[0]
    ids, counts = np.unique(targets.semantic_map.numpy(), return_counts=True)
    for class_id, count in zip(ids.tolist(), counts.tolist()):
      pixels[class_id] = pixels.get(class_id, 0) + count
    if isinstance(targets, MaskTargets):
      for ids, isthing in zip(targets.mask_ids.numpy(), targets.mask_isthing.numpy()):
        present = np.unique(ids[ids >= 0])
        masks.append(len(present))
        things.append(int(isthing[present].sum()))
  total = sum(pixels.values())
  shares = {class_id: count / total for class_id, count in sorted(pixels.items())}
  return DataReport(images, shares, masks, things)


def _add_overlapping(targets, dataset_info, pixels, masks) -> int:
  """Counts pixels by class, where masks may overlap, and masks; returns the number of images."""
  classes = targets.mask_classes.numpy()
  for bits, own in zip(targets.mask_bits.numpy(), classes):
    areas = np.unpackbits(bits, axis=-1, bitorder='little').sum((0, 1), dtype=np.int64)
    used = np.flatnonzero((own >= 0) & (areas > 0))
    masks.append(len(used))
    for row in used.tolist():
      class_id = dataset_info.class_ids[own[row]]
      pixels[class_id] = pixels.get(class_id, 0) + int(areas[row])
    outside = int((bits.max(-1, initial=0) == 0).sum())
    pixels[dataset_info.ignore_label] = pixels.get(dataset_info.ignore_label, 0) + outside
  return len(classes)


def data_lines(report: DataReport, dataset_info, queries: int) -> list[str]:
  """Returns the lines of a report, with warnings.

  Args:
    report: Result of inspect_data.
    dataset_info: The classes.
    queries: Number of queries of a mask model; 0 for other models.
  """
  unlabeled = report.class_pixels.get(dataset_info.ignore_label, 0.0)
  seen = {i: share for i, share in report.class_pixels.items() if i in dataset_info.by_class_id}
  rest = 'unlabeled' if dataset_info.stuff_class_ids else 'in no mask'
  lines = [f'  {report.images} images, {100 * unlabeled:.1f} % of the pixels {rest}']
  for class_id, share in seen.items():
    category = dataset_info.by_class_id[class_id]
    kind = 'thing' if category.isthing else 'stuff'
    lines.append(f'  class {class_id:>4} {category.name[:28]:<28} {kind} {100 * share:6.2f} %')
  missing = len(dataset_info.categories) - len(seen)
  if missing:
    lines.append(f'  {missing} of {len(dataset_info.categories)} classes do not occur in these')
  strange = set(report.class_pixels) - set(seen) - {dataset_info.ignore_label}
  if strange:
    lines.append(f'  WARNING: class ids that the data set does not have: {sorted(strange)}')
  if report.masks:
    things = f'; things: {_spread(report.things)}' if report.things else ''
    lines.append(f'  masks per image: {_spread(report.masks)}{things}')
    if queries and max(report.masks) > queries:
      lines.append(f'  WARNING: up to {max(report.masks)} masks and {queries} queries: some masks '
                   'cannot be learned; raise num_queries')
  return lines


def class_lines(examples: Iterable[tuple[tf.Tensor, ClassTargets]],
                dataset_info: ImageClasses) -> list[str]:
  """Returns lines that describe the first batches of an image classification.

  Args:
    examples: Batches of (images, targets).
    dataset_info: The classes.
  """
  found = np.concatenate([targets.class_index.numpy() for _, targets in examples])
  counts = np.bincount(found, minlength=dataset_info.num_classes)
  lines = [f'  {len(found)} images']
  for index in np.argsort(-counts, kind='stable')[:_LISTED_CLASSES]:
    if counts[index]:
      lines.append(f'  class {index:>4} {dataset_info.class_names[index][:28]:<28} '
                   f'{100 * counts[index] / len(found):6.2f} %')
  missing = int((counts == 0).sum())
  if missing:
    lines.append(f'  {missing} of {dataset_info.num_classes} classes do not occur in these')
  return lines


def _spread(values: list) -> str:
  return f'{min(values)} to {max(values)}, {np.mean(values):.1f} on average'


def _queries(config) -> int:
  options = getattr(config.model_options, config.model_options.WhichOneof('meta_architecture'))
  return getattr(options, 'num_queries', 0)
