"""Measures the stages of the input pipeline, each separately on the same images."""

import itertools
import time
from typing import Callable, Sequence

import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.architecture import TargetForm
from deeplab_tf.benchmark import measuring
from deeplab_tf.benchmark.measuring import MeasureOptions, Results
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, image_normalization, pipeline, readers
from deeplab_tf.data.augmentation import copy_paste, panoptic
from deeplab_tf.data.augmentation import options as options_lib
from deeplab_tf.data.image_normalization import SYMMETRIC, Normalization

# Smallest number of images that each stage is measured with.
_STAGE_IMAGES = 24


def measure(config, options: MeasureOptions) -> Results:
  """Measures training batches, each stage separately, and batches without augmentation.

  Args:
    config: ExperimentOptions, whose train_dataset_options are used and modified.
    options: Batch size and number of repeats.
  """
  dataset_info = catalog.from_config(config)
  form = models.architecture(config).target_form
  results = {'input_pipeline': _batches(config, dataset_info, form, options)}
  if form is not TargetForm.CLASS:
    data = config.train_dataset_options
    results['input_pipeline']['stages_s'] = stage_seconds(
        data, dataset_info, form, max(_STAGE_IMAGES, options.repeats),
        normalization=image_normalization.build(config.model_options))
    data.CopyFrom(unaugmented(data))
    results['unaugmented'] = _batches(config, dataset_info, form, options)
  return results


def _batches(config, dataset_info, form: TargetForm, options: MeasureOptions) -> dict[str, float]:
  start = time.perf_counter()
  batches = iter(pipeline.train_dataset(config, dataset_info, form, seed=0))
  result = measuring.calls(start, lambda: next(batches), options.repeats, options.batch_size)
  # Batches are prefetched during the first call, so only the mean over many calls gives the rate.
  begin = time.perf_counter()
  for _ in range(options.repeats):
    next(batches)
  result['images_per_s'] = options.batch_size * options.repeats / (time.perf_counter() - begin)
  return result


def unaugmented(options):
  """Returns a copy of DatasetOptions with the same average sizes and without randomness.

  Args:
    options: DatasetOptions of images with masks.
  """
  plain = type(options)()
  plain.CopyFrom(options)
  old, new = options.augmentations, plain.augmentations
  new.Clear()
  new.random_flip = False
  if old.HasField('large_scale_jitter'):
    new.large_scale_jitter.min_scale = new.large_scale_jitter.max_scale = 1.0
  if old.HasField('random_shorter_side'):
    sides = sorted(options_lib.build(options, 'train_dataset_options').shorter_sides)
    new.random_shorter_side.sides.append(sides[len(sides) // 2])
    new.random_shorter_side.max_longer_side = old.random_shorter_side.max_longer_side
  return plain


def stage_seconds(options, info: DatasetInfo, kind: str, images: int,
                  seed: int = 0, normalization: Normalization = SYMMETRIC) -> dict[str, float]:
  """Measures the stages of training samples.

  Args:
    options: DatasetOptions of images with masks.
    info: The data set.
    kind: 'mask' or 'center'.
    images: Number of images, from the first on.
    seed: Seed of the augmentation.
    normalization: Normalization of the images.

  Returns:
    Stage -> processor seconds per image, summed over all cores. The stages are decode, resize,
    colors, crop, paste (if configured; it includes resizing and cropping the second image), targets
    and normalize.
  """
  field = 'train_dataset_options'
  augmentation = options_lib.build(options, field, normalization)
  source = readers.open_source(options, info, field)
  payloads = list(itertools.islice(itertools.cycle(source.in_order().take(images)), images))
  seeds = [tf.constant([seed, number], tf.int64) for number in range(images)]
  seconds = {}

  def run(name, step, inputs):
    outputs, seconds[name] = _timed(step, inputs)
    return outputs

  examples = run('decode', source.load, payloads)
  resized = run('resize', lambda example, seed: _resize(example, augmentation, info, seed),
                list(zip(examples, seeds)))
  places = [place for _, place in resized]
  colored = run('colors', lambda image, seed: panoptic.change_colors(image, augmentation, seed),
                [(image, seed) for (image, _), seed in zip(resized, seeds)])
  crops = run('crop', lambda image, label, place: panoptic.crop(
      image, label, place, augmentation, info.void_label),
              [(image, example.label, place)
               for image, example, place in zip(colored, examples, places)])
  if augmentation.paste:
    crops = run('paste', lambda onto, other, seed: _paste(
        onto, other, augmentation, info, options.max_thing_id, seed),
                list(zip(crops, examples[1:] + examples[:1], seeds)))
  make = pipeline.target_function(options, info, kind)
  run('targets', make, [(label, example) for (_, label), example in zip(crops, examples)])
  run('normalize', normalization.apply, [(image,) for image, _ in crops])
  return seconds


def _resize(example, augmentation, info, seed):
  place = panoptic.draw_placement(example.label, augmentation, info, seed)
  return panoptic.resize(example.image, place, augmentation), place


def _paste(onto, other, augmentation, info, max_things, seed):
  pasted = panoptic.pasted_crop(other, augmentation, info, seed)
  return copy_paste.paste(onto, pasted, choice=augmentation.paste, info=info, max_things=max_things,
                          seed=seed)


def _timed(step: Callable, inputs: Sequence) -> tuple[list, float]:
  """Returns the results for all inputs, and the processor seconds per input."""
  function = tf.function(step, reduce_retracing=True, autograph=False)
  outputs = [function(*arguments) for arguments in inputs]  # Traces.
  # Results are not kept this time, so that memory is reused, as it is between batches.
  begin = time.process_time()
  for arguments in inputs:
    function(*arguments)
  return outputs, (time.process_time() - begin) / len(inputs)
