"""From a data set on disk to batches: the way of an image, top-down.

  records, images or drawings -> decode -> resize to range -> random scale -> colours ->
  pad and crop -> flip -> targets -> normalise -> batch

Images with one class each are cropped by data.class_images.

The order of the samples and every random choice are functions of the seed and of a running number
of the record, so a resumed run goes on with the very sample at which it was stopped.
"""

from typing import Callable, NamedTuple, Optional

import tensorflow as tf

from deeplab_tf import config as config_lib
from deeplab_tf import structures
from deeplab_tf.data import (
    autoaugment,
    catalog,
    class_images,
    damage,
    readers,
    targets,
    transforms,
)

normalize = transforms.normalize
denormalize = transforms.denormalize
count_examples = readers.count_examples


def train_dataset(config, dataset_info: catalog.AnyInfo, targets: str, seed: int,
                  start_step: int = 0,
                  input_context: Optional[tf.distribute.InputContext] = None) -> tf.data.Dataset:
  """Returns the endless data set of training batches.

  Args:
    config: ExperimentOptions; train_dataset_options is used.
    dataset_info: Its data set.
    targets: 'mask', 'center' or 'class'.
    seed: Of the order and of the augmentation.
    start_step: Batches that are left out, without decoding them.
    input_context: Of one worker of several: it gets its block of every global batch, in batches
      for one replica, so that those of all replicas together are the global batch in its order.
      Without it, batches are global.

  Returns:
    (images, targets): float32 [batch, *crop_size, 3] normalised, and MaskTargets, CenterTargets
    or ClassTargets. Deterministic, static shapes.

  Raises:
    ConfigError: The options cannot be used.
    ValueError: The data cannot be used; one line with the file.
    FileNotFoundError: A pattern matches no file.
  """
  options = config.train_dataset_options
  make_sample = _sample_function(options, dataset_info, targets)
  source = readers.open_source(options, dataset_info, 'train_dataset_options')
  batch_size = options.batch_size
  payloads = _endless(source, seed, start_step * batch_size, options)
  if input_context is not None:
    payloads = _block(payloads, batch_size, input_context)
    batch_size = input_context.get_per_replica_batch_size(batch_size)
  load = _loader(source, options, 'train_dataset_options', dataset_info)

  @tf.autograph.experimental.do_not_convert  # There is nothing to convert, and it takes seconds.
  def sample(number, payload):
    example = load(*payload).example
    image, made = make_sample(example, tf.stack([seed, number]))
    return transforms.normalize(image), made

  samples = payloads.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  batches = samples.batch(batch_size, drop_remainder=True)
  return batches.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def eval_dataset(config, dataset_info: catalog.AnyInfo, workers: int = 1,
                 worker: int = 0) -> tf.data.Dataset:
  """Returns the evaluation images once, in the order of the files.

  They are EvaluationBatch, or ClassEvaluationBatch where the data set has one class per image.
  Images are resized to the range (by default they only shrink to the crop) and padded at the
  bottom and on the right; labels keep the images' own sizes. The last batch may be smaller, and
  damaged images are left out if the options allow for some.

  Args:
    config: ExperimentOptions; eval_dataset_options is used.
    dataset_info: Its data set.
    workers: Number of workers; batch_size is shared among them.
    worker: Which of them this is: it gets every workers-th image, from this one on.

  Raises:
    As train_dataset.
  """
  options = config.eval_dataset_options
  prepare, shapes, padding = _evaluation_function(options, dataset_info)
  source = readers.open_source(options, dataset_info, 'eval_dataset_options')
  load = _loader(source, options, 'eval_dataset_options', dataset_info)

  @tf.autograph.experimental.do_not_convert
  def sample(*payload):
    example, is_intact = load(*payload)
    return prepare(example), is_intact

  payloads = source.in_order().shard(workers, worker)
  if options.max_damaged_images:
    payloads = damage.alone(payloads)
  samples = payloads.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  if options.max_damaged_images:
    samples = samples.filter(lambda _, is_intact: is_intact)
  samples = samples.map(lambda sample, _: sample)
  batches = samples.padded_batch(options.batch_size // workers, shapes, padding)
  return batches.with_options(_options()).prefetch(2)


def _endless(source, seed, start, options):
  """(running number, payload) from number `start` on, epoch after epoch.

  Epochs are shuffled one by one, so that those before `start` need not be read.
  """
  # What may replace the first images must be known too.
  begin = max(start - damage.EARLIER, 0) if options.max_damaged_images else start
  first_epoch, rest = divmod(begin, source.count_exactly()) if begin else (0, 0)
  epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
  payloads = epochs.flat_map(
      lambda epoch: source.shuffled(seed, epoch, options.shuffle_buffer_size))
  numbered = payloads.skip(rest).enumerate(begin)
  if options.max_damaged_images:
    numbered = damage.with_earlier(numbered).skip(start - begin)
  return numbered


def _block(numbered, batch_size, input_context):
  """Of every global batch, the block of one worker."""
  size = batch_size // input_context.num_input_pipelines
  return numbered.filter(
      lambda number, _: number % batch_size // size == input_context.input_pipeline_id)


def _loader(source, options, field, info):
  """A function from a payload to damage.Loaded."""
  if not options.max_damaged_images:
    return lambda *payload: damage.Loaded(source.load(*payload), tf.constant(True))

  def blank():
    size, one_class = list(options.crop_size), isinstance(info, catalog.ImageClasses)
    label = tf.constant(0) if one_class else tf.fill(size, info.void_label)
    return structures.LabeledImage(tf.zeros([*size, 3], tf.uint8), label, tf.constant(''))

  return damage.Guard(source, damage.log_of(options, field), blank).load


def _options():
  options = tf.data.Options()
  options.deterministic = True
  # Sharding is done above, by example.
  options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
  return options


# --- One image --------------------------------------------------------------------------------


class Recipe(NamedTuple):
  """What is done to an image; sizes are (height, width), empty where not wanted."""
  crop_size: tuple
  min_size: tuple
  max_size: tuple
  resize_factor: int
  scale: tuple
  policy: tuple
  flip: bool


def augment(example: structures.LabeledImage, recipe: Recipe, info: catalog.DatasetInfo,
            seed: tf.Tensor) -> transforms.Pair:
  """Makes a training crop, a function of the image and the seed.

  Args:
    example: A decoded image.
    recipe: What to do.
    info: The data set.
    seed: int64 [2].

  Returns:
    float32 [*crop_size, 3] in [0, 255] and int32 [*crop_size].
  """
  seeds = [tf.random.experimental.stateless_fold_in(seed, i) for i in range(4)]
  image, label = tf.cast(example.image, tf.float32), example.label
  if any(recipe.min_size) or any(recipe.max_size):
    image, label = transforms.resize(image, label, _resized_size(image, recipe))
  image, label = transforms.random_scale(image, label, *recipe.scale, seeds[0])
  if recipe.policy:
    image = autoaugment.distort(tf.cast(image, tf.uint8), recipe.policy, seeds[1])
    image = tf.cast(image, tf.float32)
  image, label = transforms.random_crop(image, label, recipe.crop_size, info.void_label, seeds[2])
  if recipe.flip:
    image, label = transforms.random_flip(image, label, seeds[3])
  return image, label


def prepare_for_evaluation(image: tf.Tensor, recipe: Recipe) -> tuple[tf.Tensor, tf.Tensor]:
  """Resizes and pads an image for evaluation.

  Args:
    image: uint8 [height, width, 3].
    recipe: Sizes; without a maximum it is the crop size.

  Returns:
    float32 [*crop_size, 3] in [0, 255], and int32 [2], the size of the image inside.
  """
  image = tf.cast(image, tf.float32)
  if not any(recipe.max_size):
    recipe = recipe._replace(max_size=recipe.crop_size)
  size = _resized_size(image, recipe)
  image, _ = transforms.resize(image, None, size)
  image, _ = transforms.pad(image, None, recipe.crop_size, 0)
  return tf.ensure_shape(image, [*recipe.crop_size, 3]), size


def _resized_size(image, recipe):
  return transforms.size_in_range(tf.shape(image)[:2], recipe.min_size, recipe.max_size,
                                  recipe.resize_factor)


# --- From the config --------------------------------------------------------------------------


def _recipe(options, field) -> Recipe:
  """Translates DatasetOptions; `field` is their name in errors."""
  if len(options.crop_size) != 2:
    raise config_lib.ConfigError(f'{field}.crop_size is not set: it takes two values, height and '
                                 'width')
  augmentations = options.augmentations
  if augmentations.panoptic_copy_paste.panoptic_copy_paste_scale > 0:
    raise config_lib.ConfigError(f'{field}.augmentations.panoptic_copy_paste is not supported; '
                                 'remove it')
  return Recipe(
      crop_size=tuple(options.crop_size),
      min_size=_pair(options.min_resize_value),
      max_size=_pair(options.max_resize_value),
      resize_factor=options.resize_factor,
      scale=(augmentations.min_scale_factor, augmentations.max_scale_factor,
             augmentations.scale_factor_step_size),
      policy=autoaugment.policy(augmentations.autoaugment_policy_name, field),
      flip=augmentations.random_flip)


def _pair(values):
  return tuple(values) * 2 if len(values) == 1 else tuple(values)


def _sample_function(options, info, kind) -> Callable:
  """A function from a LabeledImage and a seed to a training image in [0, 255] and its targets."""
  if kind == 'class':
    recipe = class_images.build_recipe(options, 'train_dataset_options')
    return lambda example, seed: class_images.training_sample(example, recipe, seed)
  recipe = _recipe(options, 'train_dataset_options')
  make_targets = _target_function(options, info, kind)

  def sample(example, seed):
    image, label = augment(example, recipe, info, seed)
    return image, make_targets(label, example.name)

  return sample


def _evaluation_function(options, info) -> tuple[Callable, NamedTuple, NamedTuple]:
  """A function from a LabeledImage to an evaluation sample; the sample's shapes and padding."""
  if isinstance(info, catalog.ImageClasses):
    recipe = class_images.build_recipe(options, 'eval_dataset_options')
    shapes = structures.ClassEvaluationBatch([*recipe.crop_size, 3], [], [])
    return (lambda example: class_images.evaluation_sample(example, recipe), shapes,
            structures.ClassEvaluationBatch(0.0, 0, ''))
  recipe = _recipe(options, 'eval_dataset_options')

  def prepare(example):
    image, resized = prepare_for_evaluation(example.image, recipe)
    return structures.EvaluationBatch(
        transforms.normalize(image), resized, tf.shape(example.image)[:2], example.label,
        example.name)

  shapes = structures.EvaluationBatch([*recipe.crop_size, 3], [2], [2], [None, None], [])
  return prepare, shapes, structures.EvaluationBatch(0.0, 0, 0, info.void_label, '')


def _target_function(options, info, kind):
  small = targets.SmallInstances()
  if options.increase_small_instance_weights:
    small = targets.SmallInstances(options.small_instance_threshold, options.small_instance_weight)
  if kind == 'mask':
    return lambda label, name: targets.mask_targets(label, info, options.max_thing_id, small, name)
  if kind == 'center':
    return lambda label, name: targets.center_targets(label, info, options.sigma, small)
  raise ValueError(f'targets is "{kind}": allowed are mask, center, class')
