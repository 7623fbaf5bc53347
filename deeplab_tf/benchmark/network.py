"""Measures a network: exported inference, a training step, and post-processing alone."""

import itertools
import time

import numpy as np
import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.architecture import TargetForm
from deeplab_tf.benchmark import measuring, synthetic_batches
from deeplab_tf.benchmark.measuring import MeasureOptions, Results
from deeplab_tf.data import catalog
from deeplab_tf.export import serving_module
from deeplab_tf.training import distribution, state, trainer


def inference(config, options: MeasureOptions) -> Results:
  """Measures inference from uint8 images to the prediction of the task, with random weights.

  Class (or center) predictions are replaced by ones of which some are confident, so that
  post-processing takes as long as with a trained network.

  Args:
    config: ExperimentOptions.
    options: Input size, batch size and number of repeats.
  """
  images = np.random.default_rng(0).integers(
      0, 256, (options.batch_size, *options.input_size, 3), dtype=np.uint8)
  start = time.perf_counter()
  dataset_info = catalog.from_config(config)
  model = serving_module.build_network(config, dataset_info)
  built = time.perf_counter()
  network = models.inference_network(config, model)
  if options.jit_compile:
    network = tf.function(network, jit_compile=True, autograph=False)

  def confident(inputs):
    outputs = network(inputs)
    if 'class_logits' in outputs:
      # There are several if predictions are averaged over passes.
      outputs = {**outputs, 'class_logits': tf.nest.map_structure(
          lambda x: x + synthetic_batches.confidence(*x.shape[1:]), outputs['class_logits'])}
    if 'center_heatmap' in outputs:
      size = outputs['center_heatmap'].shape[1:3]
      outputs = {**outputs, 'center_heatmap': synthetic_batches.centers(options.batch_size, size)}
    return outputs

  module = serving_module.build(config, dataset_info, model, confident)
  module.predict.get_concrete_function()
  traced = time.perf_counter()
  result = measuring.calls(start, lambda: tf.nest.flatten(module.predict(images))[0].numpy(),
                           options.repeats, options.batch_size)
  return {'inference': {'build_s': built - start, 'trace_s': traced - built, **result}}


def train_step(config, options: MeasureOptions) -> Results:
  """Measures a training step: forward pass, matching, losses, backward pass and update.

  Args:
    config: ExperimentOptions.
    options: Input size, batch size and number of repeats.
  """
  dataset_info = catalog.from_config(config)
  architecture = models.architecture(config)
  config.trainer_options.jit_compile |= options.jit_compile
  strategy = distribution.build()
  distribution.check(config, strategy)
  batch = synthetic_batches.training_batch(config, dataset_info, architecture.target_form,
                                           options.batch_size, options.input_size)
  start = time.perf_counter()
  model, global_step = state.build_model(config, dataset_info, architecture, strategy)
  built = time.perf_counter()
  training_state = state.build(config, architecture, model, global_step, strategy)
  trained = trainer.build(config, architecture, dataset_info, strategy=strategy,
                          state=training_state, batches=lambda step: itertools.repeat(batch))
  result = measuring.calls(start, lambda: trained.train(1), options.repeats, options.batch_size)
  return {'train_step': {'build_s': built - start, **result}}


def postprocess(config, options: MeasureOptions) -> Results:
  """Measures post-processing alone, on synthetic raw outputs.

  Args:
    config: ExperimentOptions.
    options: Input size, batch size and number of repeats.
  """
  dataset_info = catalog.from_config(config)
  architecture = models.architecture(config)
  make = {TargetForm.MASK: synthetic_batches.mask_outputs,
          TargetForm.CENTER: synthetic_batches.center_outputs}[architecture.target_form]
  tf.random.set_seed(0)
  height, width = options.input_size
  inputs = make(config, dataset_info, options.batch_size, (-(-height // 4), -(-width // 4)))
  start = time.perf_counter()
  postprocess_batch = architecture.build_postprocessor(config, dataset_info)
  function = tf.function(lambda outputs: postprocess_batch(outputs, (height, width)),
                         autograph=False)
  return {'postprocess': measuring.calls(
      start, lambda: function(inputs)[0].numpy(), options.repeats, options.batch_size)}
