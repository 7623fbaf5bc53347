"""The input pipeline, from a data set on disk to batches.

  records, image files or synthetic images -> decode -> placement of the crop -> resize -> colors ->
  crop, flip and pad -> paste -> targets -> normalize -> batch

Images with one class each are cropped by data.augmentation.classification.

The order of the samples and every random choice are functions of the seed and of the running number
of the record, so a resumed run continues with the sample at which it was stopped. Pasted segments
come from the next record of the stream, which is decoded once for both uses.
"""

from typing import Callable, NamedTuple, Optional

import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import structures, tasks
from deeplab_tf.classes import AnyInfo, DatasetInfo, ImageClasses
from deeplab_tf.data import (
  catalog,
  corrupt,
  image_normalization,
  label_maps,
  readers,
  targets,
)
from deeplab_tf.data.augmentation import (
  classification,
  panoptic,
  pillow_resize,
  placement,
  transforms,
)
from deeplab_tf.data.augmentation import options as options_lib
from deeplab_tf.layers.shapes import scaled_size
from deeplab_tf.tasks import Task
from deeplab_tf.user_errors import ConfigError

Augmentation = options_lib.Augmentation
count_examples = readers.count_examples


def train_dataset(config, dataset_info: AnyInfo, targets: str, seed: int,
                  start_step: int = 0,
                  input_context: Optional[tf.distribute.InputContext] = None) -> tf.data.Dataset:
  """Returns the endless data set of training batches.

  Args:
    config: ExperimentOptions; train_dataset_options is used.
    dataset_info: The classes of the config's task; see tasks.classes.
    targets: Form of the targets: 'mask', 'center' or 'class'.
    seed: Seed of the order and of the augmentation.
    start_step: Number of batches that are skipped, without decoding them.
    input_context: Context of a worker. The worker gets its block of every global batch, in batches
      for one replica, so that the batches of all replicas together are the global batch in its
      order. None for global batches.

  Returns:
    Batches (images, targets) with static shapes: normalized float32 [batch, *crop_size, 3], and
    MaskTargets, OverlappingMaskTargets (for data sets whose masks may overlap), CenterTargets or
    ClassTargets. The order is deterministic.

  Raises:
    ConfigError: The options are invalid.
    ValueError: The data is invalid; the message is one line with the file.
    FileNotFoundError: A pattern matches no file.
  """
  options = config.train_dataset_options
  normalization = image_normalization.build(config.model_options)
  make_sample, pastes = _sample_function(options, dataset_info, targets, normalization)
  source, load = _open(config, options, dataset_info, 'train_dataset_options')
  batch_size = options.batch_size
  payloads = _endless(source, seed, start_step * batch_size, options)
  is_wanted = lambda number: True  # noqa: E731
  if input_context is not None:
    is_wanted = _in_block(batch_size, input_context)
    payloads = payloads.filter(
        lambda number, _: is_wanted(number) | (pastes and is_wanted(number - 1)))
    batch_size = input_context.get_per_replica_batch_size(batch_size)

  @tf.autograph.experimental.do_not_convert  # There is nothing to convert, and it takes seconds.
  def decode(number, payload):
    return number, load(*payload).example

  @tf.autograph.experimental.do_not_convert
  def sample(number, *examples):
    image, made = make_sample(*examples, tf.stack([seed, number]))
    return normalization.apply(image), made

  if pastes:
    decoded = payloads.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    samples = _with_next(decoded).filter(lambda number, *_: is_wanted(number))
    samples = samples.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  else:
    samples = payloads.map(lambda *element: sample(*decode(*element)),
                           num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  batches = samples.batch(batch_size, drop_remainder=True)
  return batches.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def eval_dataset(config, dataset_info: AnyInfo, workers: int = 1, worker: int = 0,
                 ratio: float = 1.0) -> tf.data.Dataset:
  """Returns the evaluation images once, in the order of the files.

  Batches are EvaluationBatch, or ClassEvaluationBatch if the data set has one class per image.
  Images are resized to the range (by default they are only scaled down to the crop) and padded at
  the bottom and on the right, to the crop size or, with size_divisor, to the largest image of their
  batch. Labels keep the size of the image file. The last batch may be smaller, and corrupt images
  are left out if the options allow some.

  Args:
    config: ExperimentOptions; eval_dataset_options is used.
    dataset_info: The classes.
    workers: Number of workers; batch_size is shared among them.
    worker: Index of this worker; it gets every workers-th image, from this one on.
    ratio: Factor on the size of the network's input, including padding; for data with masks only.

  Raises:
    ConfigError: The options are invalid.
    ValueError: The data is invalid; the message is one line with the file.
    FileNotFoundError: A pattern matches no file.
  """
  options = config.eval_dataset_options
  prepare, shapes, padding = _evaluation_function(config, dataset_info, ratio)
  source, load = _open(config, options, dataset_info, 'eval_dataset_options')

  @tf.autograph.experimental.do_not_convert
  def sample(*payload):
    example, is_intact = load(*payload)
    return prepare(example), is_intact

  payloads = source.in_order().shard(workers, worker)
  if options.max_damaged_images:
    payloads = corrupt.alone(payloads)
  samples = payloads.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  if options.max_damaged_images:
    samples = samples.filter(lambda _, is_intact: is_intact)
  samples = samples.map(lambda sample, _: sample)
  batches = samples.padded_batch(options.batch_size // workers, shapes, padding)
  return batches.with_options(_options()).prefetch(2)


def _endless(source, seed, start, options):
  """Returns (running number, payload) from number `start` on, epoch after epoch.

  Epochs are shuffled one by one, so those before `start` need not be read.
  """
  # A few earlier payloads are needed to replace the first images if these are corrupt.
  begin = max(start - corrupt.EARLIER, 0) if options.max_damaged_images else start
  first_epoch, rest = divmod(begin, source.count_exactly()) if begin else (0, 0)
  epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
  payloads = epochs.flat_map(
      lambda epoch: source.shuffled(seed, epoch, options.shuffle_buffer_size))
  numbered = payloads.skip(rest).enumerate(begin)
  if options.max_damaged_images:
    numbered = corrupt.with_earlier(numbered).skip(start - begin)
  return numbered


def _in_block(batch_size, input_context):
  """Returns a function that tells whether a number is in the worker's block of its batch."""
  size = batch_size // input_context.num_input_pipelines
  return lambda number: number % batch_size // size == input_context.input_pipeline_id


def _with_next(decoded):
  """Maps (number, example) to (number, example, example of the next number)."""
  nothing = tf.nest.map_structure(
      lambda spec: tf.zeros([side or 1 for side in spec.shape], spec.dtype),
      decoded.element_spec[1])

  def push(last, element):
    return element, (*last, element[1])

  return decoded.scan((tf.constant(-1, tf.int64), nothing), push).skip(1)


def _open(config, options, dataset_info, field):
  """Opens a data set.

  Returns:
    The source, and a function from its payload to corrupt.Loaded with the labels of the task.
  """
  task, info = tasks.of(config), dataset_info
  if task in (Task.INSTANCE, Task.SEMANTIC):
    # Labels are checked against all classes of the data set, of which the task may use a part.
    info = catalog.from_options(options)
  source = readers.open_source(options, info, field)
  load = _loader(source, options, field, info)

  def load_for_task(*payload):
    loaded = load(*payload)
    label = label_maps.of_task(task, loaded.example.label, info)
    return loaded._replace(example=loaded.example._replace(label=label))

  return source, load_for_task


def _loader(source, options, field, info):
  """Returns a function from a payload to corrupt.Loaded."""
  if not options.max_damaged_images:
    return lambda *payload: corrupt.Loaded(source.load(*payload), tf.constant(True))

  def blank():
    size = list(options.crop_size) or [1, 1]
    return structures.LabeledImage(tf.zeros([*size, 3], tf.uint8), label_maps.blank(info, size),
                                   tf.constant(''))

  return corrupt.Guard(source, corrupt.log_of(options, field), blank).load


def _options():
  options = tf.data.Options()
  options.deterministic = True
  # The examples are sharded above.
  options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
  return options


# --- One image for evaluation -----------------------------------------------------------------


def prepare_for_evaluation(image: tf.Tensor, augmentation: Augmentation,
                           ratio: float = 1.0) -> tuple[tf.Tensor, tf.Tensor]:
  """Resizes, normalizes and pads an image for evaluation and in an exported model.

  Args:
    image: uint8 [height, width, 3].
    augmentation: Sizes and normalization. Without a crop size the image is padded to multiples
      of the size divisor.
    ratio: Factor by which both sizes of the result are scaled with aligned corners; a factor other
      than 1 needs a crop size.

  Returns:
    float32 [*crop_size, 3], normalized, with padding of 0 at the bottom and on the right; and
    int32 [2], the size of the image inside.
  """
  size = evaluation_size(tf.shape(image)[:2], augmentation)
  crop_size = [scaled_size(n, ratio) for n in augmentation.crop_size]
  if ratio != 1:
    # float64, like the crop size: with float32 the image could become larger than the crop.
    size = tf.cast(tf.cast(size - 1, tf.float64) * ratio + 1, tf.int32)
  if augmentation.shorter_sides:
    image = pillow_resize.resize(image, size)
  else:
    image, _ = transforms.resize(tf.cast(image, tf.float32), None, size)
  image = augmentation.normalization.apply(image)
  padded = crop_size or size + -size % augmentation.size_divisor
  image, _ = transforms.pad(image, None, padded, void_label=0, color=(0.0, 0.0, 0.0))
  return tf.ensure_shape(image, [*(crop_size or (None, None)), 3]), size


def evaluation_size(size: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
  """Returns the size that an image has after resizing, int32 [2]; see `prepare_for_evaluation`."""
  if augmentation.shorter_sides:
    return placement.shorter_side_size(size, augmentation.shorter_sides[0],
                                       augmentation.max_longer_side, augmentation.crop_size)
  max_size = augmentation.max_size if any(augmentation.max_size) else augmentation.crop_size
  return transforms.size_in_range(size, augmentation.min_size, max_size, augmentation.resize_factor)


# --- From the config --------------------------------------------------------------------------


def _sample_function(options, info, kind, normalization) -> tuple[Callable, bool]:
  """Returns a function from one or two LabeledImages and a seed to an image and its targets.

  The image is in [0, 255]. Also returns whether the function takes two images, in which case
  segments of the second are pasted.
  """
  field = 'train_dataset_options'
  if kind == 'class':
    options_lib.require_masks(options, field)
    one_class = classification.build_augmentation(options, field, normalization)
    return lambda example, seed: classification.training_sample(example, one_class, seed), False
  augmentation = options_lib.build(options, field, normalization)
  if info.masks_overlap and augmentation.max_category_share < 1:
    raise ConfigError(f'{field}.augmentations.max_category_share needs a class for every pixel, '
                      f'and data set "{info.name}" has masks of instances; remove it')
  make_targets = target_function(options, info, kind)

  def sample(example, *other_and_seed):
    if augmentation.paste:
      other, seed = other_and_seed
      image, label = panoptic.augment_and_paste(example, other, augmentation, info=info,
                                                max_things=options.max_thing_id, seed=seed)
    else:
      image, label = panoptic.augment(example, augmentation, info, *other_and_seed)
    return image, make_targets(label, example)

  return sample, augmentation.paste is not None


def evaluation_augmentation(config) -> Augmentation:
  """Returns the sizes and the normalization of evaluation images and of an exported model.

  Images whose predictions are averaged over several sizes are only normalized, since each pass of
  the network starts at the image's file; see models.inference_network.
  """
  normalization = image_normalization.build(config.model_options)
  if config_lib.averages_resized_images(config):
    return Augmentation(normalization=normalization)
  return options_lib.build_for_evaluation(config.eval_dataset_options, normalization)


def _evaluation_function(config, info, ratio) -> tuple[Callable, NamedTuple, NamedTuple]:
  """Returns a function from a LabeledImage to an evaluation sample, its shapes and its padding."""
  options, field = config.eval_dataset_options, 'eval_dataset_options'
  if isinstance(info, ImageClasses):
    one_class = classification.build_augmentation(options, field,
                                            image_normalization.build(config.model_options))
    shapes = structures.ClassEvaluationBatch([*one_class.crop_size, 3], [], [])
    return (lambda example: classification.evaluation_sample(example, one_class), shapes,
            structures.ClassEvaluationBatch(0.0, 0, ''))
  augmentation = evaluation_augmentation(config)
  if not augmentation.crop_size and not options.size_divisor:
    raise ConfigError(f'{field}.crop_size is not set: it takes two values, height and width; for '
                      'images of any size set size_divisor instead, 1 for no padding')

  def prepare(example):
    image, resized = prepare_for_evaluation(example.image, augmentation, ratio)
    return structures.EvaluationBatch(image, resized, tf.shape(example.image)[:2], example.label,
                                      example.name)

  size = [scaled_size(n, ratio) for n in augmentation.crop_size] or [None, None]
  label_shape, label_padding = label_maps.batched(info)
  shapes = structures.EvaluationBatch([*size, 3], [2], [2], label_shape, [])
  return prepare, shapes, structures.EvaluationBatch(0.0, 0, 0, label_padding, '')


def target_function(options, info: DatasetInfo, kind: str) -> Callable:
  """Returns a function from a cropped label map and its LabeledImage to the targets of a model.

  Args:
    options: DatasetOptions.
    info: The classes.
    kind: Form of the targets, 'mask' or 'center'.
  """
  small = targets.SmallInstances()
  if options.increase_small_instance_weights:
    small = targets.SmallInstances(options.small_instance_threshold, options.small_instance_weight)
  if kind == 'mask' and info.masks_overlap:
    return lambda label, example: targets.overlapping_mask_targets(
        label, info, options.max_thing_id, example.name)
  if kind == 'mask':
    return lambda label, example: targets.mask_targets(
        label, info, options.max_thing_id, small, example.name,
        example.label if options.keep_empty_masks else None)
  if kind == 'center':
    return lambda label, example: targets.center_targets(label, info, options.sigma, small)
  raise ValueError(f'targets is "{kind}": allowed are mask, center, class')
