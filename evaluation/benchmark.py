"""Measures time and memory of a model, its parts, its training step, input data or scoring.

  python evaluation/benchmark.py --config_file=F --what=inference --input_size=641x641

All benchmarks except input_pipeline use synthetic data, so they need no dataset and no checkpoint.
--what=evaluation needs no config.
"""

import functools
import json
import os
import platform
import resource
import statistics
import sys
import time
from typing import Any, Callable, Optional, Sequence

from deeplab_tf import arguments, cli
from deeplab_tf.user_errors import UsageError

_NOTES = """\
what:
  inference       uint8 image to panoptic map, as exported, with random weights; the class
                  (or center) predictions are replaced by synthetic ones, some of them confident
  train_step      forward pass, losses, matching, backward pass and update, as in the trainer
  postprocess     post-processing only
  matching        128 queries and 100 ground truth masks, by both solvers; needs no size
  attention       each kind of axial or local attention in the network, one layer along one axis:
                  inference, and a train step (gradients of a sum of squares with respect to the
                  weights and the input), each in a separate process
  input_pipeline  --repeats training batches from train_dataset_options; the same without
                  augmentation (fixed size, no randomness); each stage separately, in processor
                  time over all cores
  evaluation      panoptic quality and boundary panoptic quality of --repeats pairs of PNGs, at
                  least 20, with 60 segments each, from files, in one process; seconds per pair
output:
  first      seconds from the start of building the model to the first result
  median     seconds per call after the first one
  processor  median processor time over all cores, which other programs affect less
  peak       largest resident memory of this process, including TensorFlow
"""
_WHAT = ('inference', 'train_step', 'postprocess', 'attention', 'matching',
         'input_pipeline', 'evaluation')
_QUERIES, _TARGETS = 128, 100
# Minimum number of images for each stage of the input pipeline.
_STAGE_IMAGES = 24


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  if args.what == 'evaluation':
    _report(args, _evaluation(args))
    return
  if args.config_file is None:
    raise UsageError(f'--what={args.what} needs a --config_file')
  from deeplab_tf import config as config_lib
  config = config_lib.load_config(args.config_file, args.override)
  # input_pipeline uses the batch size of the config, unless the flag is given.
  if args.batch_size is None:
    args.batch_size = (config.train_dataset_options.batch_size if args.what == 'input_pipeline'
                       else 1)
  training = args.what in ('train_step', 'input_pipeline')
  _set_sizes(config.train_dataset_options if training else config.eval_dataset_options, args,
             args.what)
  if args.what in ('inference', 'postprocess'):
    config_lib.require_segmentation(config, f'--what={args.what}')
  measure = {'inference': _inference, 'train_step': _train_step, 'postprocess': _postprocess,
             'attention': _attention, 'matching': _matching,
             'input_pipeline': _input_pipeline}[args.what]
  _report(args, measure(config, args))


def _report(args, results: dict[str, dict[str, float]]) -> None:
  """Prints the results with the settings and the machine."""
  report = {'what': args.what, 'results': results,
            'machine': _machine(with_tensorflow=args.what != 'evaluation'), 'peak_gb': _peak(),
            'repeats': args.repeats, 'jit_compile': args.jit_compile}
  if args.what != 'matching':
    report.update(input_size=list(args.input_size), batch_size=args.batch_size)
  print(json.dumps(report, indent=1) if args.format == 'json' else _table(report))


def _parser() -> arguments.Parser:
  parser = arguments.Parser('benchmark.py', __doc__, _NOTES)
  parser.add_config(required=False)
  parser.add_argument('--what', choices=_WHAT, default='inference')
  parser.add_argument('--input_size', type=arguments.size, metavar='HxW',
                      help='e.g. 641x641 (default: the crop size of the config)')
  parser.add_argument('--batch_size', type=arguments.positive, metavar='N',
                      help="default: 1, or for input_pipeline that of the config")
  parser.add_argument('--repeats', type=arguments.positive, default=5, metavar='N',
                      help='number of calls after the first (default: %(default)s)')
  parser.add_argument('--jit_compile', action='store_true',
                      help='compile the network, or the training step, with XLA')
  parser.add_argument('--format', choices=('table', 'json'), default='table')
  return parser


def _set_sizes(options, args, what: str) -> None:
  """Copies the flags to the dataset options."""
  if args.input_size is None:
    if len(options.crop_size) != 2 and what != 'matching':
      raise UsageError('the config has no crop_size: give --input_size=HxW')
    args.input_size = tuple(options.crop_size)
  elif what != 'matching':
    options.crop_size[:] = args.input_size
    options.ClearField('min_resize_value')
    options.ClearField('max_resize_value')
  options.batch_size = args.batch_size


# === Measuring ===


def _measure(start: float, step: Callable, repeats: int, images: int) -> dict[str, float]:
  """Measures a first call of a step and `repeats` more.

  Args:
    start: Time at which the work for the first result began.
    step: Function that returns when its result is available.
    repeats: Number of calls after the first.
    images: Number of images per call.
  """
  before = time.perf_counter()
  step()
  first = time.perf_counter()
  times, processor = [], []
  for _ in range(repeats):
    begin, processor_begin = time.perf_counter(), time.process_time()
    step()
    processor.append(time.process_time() - processor_begin)
    times.append(time.perf_counter() - begin)
  median = statistics.median(times)
  return {'first_s': first - start, 'first_call_s': first - before, 'median_s': median,
          'fastest_s': min(times), 'processor_s': statistics.median(processor),
          'images_per_s': images / median}


def _machine(with_tensorflow: bool) -> dict[str, Any]:
  machine = {'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
             else os.cpu_count(), 'processor': platform.machine(),
             'load_average': os.getloadavg()[0]}
  if with_tensorflow:
    import tensorflow as tf
    machine.update(gpus=len(tf.config.list_physical_devices('GPU')), tensorflow=tf.__version__)
  return machine


def _peak() -> float:
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak * (1 if sys.platform == 'darwin' else 1024) / 1e9


def _table(report) -> str:
  lines = [report['what'] + (f' at {report["input_size"][0]}x{report["input_size"][1]}, batch '
                             f'{report["batch_size"]}' if 'input_size' in report else '')]
  for name, values in report['results'].items():
    lines.append(f'{name:<16} first {values["first_s"]:8.3f} s   median {values["median_s"]:8.4f} '
                 f's   {values["images_per_s"]:8.2f} images/s')
    if 'processor_s' in values:
      lines.append(f'  {"processor":<14} {values["processor_s"]:14.4f} s')
    if 'peak_gb' in values:
      lines.append(f'  {"peak":<14} {values["peak_gb"]:14.2f} GB')
    lines += [f'  {key:<14} {values[key]:14.3f} s' for key in ('build_s', 'trace_s', 'first_call_s')
              if key in values]
    lines += [f'  {name:<14} {1000 * seconds:14.2f} ms per image'
              for name, seconds in values.get('stages_s', {}).items()]
  machine = report['machine']
  tensorflow = (f'{machine["gpus"]} GPUs, TensorFlow {machine["tensorflow"]}, '
                if 'tensorflow' in machine else '')
  # Layers report their own peak memory: they ran in other processes.
  peak = '' if report['what'] == 'attention' else f'peak memory {report["peak_gb"]:.2f} GB; '
  lines.append(f'{peak}{machine["cores"]} cores, {tensorflow}load average '
               f'{machine["load_average"]:.1f}')
  return '\n'.join(lines)


# === Benchmarks ===


def _inference(config, args) -> dict[str, dict[str, float]]:
  import numpy as np
  import tensorflow as tf

  from deeplab_tf import models
  from deeplab_tf.benchmark import synthetic_batches
  from deeplab_tf.data import catalog
  from deeplab_tf.export import serving_module
  images = np.random.default_rng(0).integers(0, 256, (args.batch_size, *args.input_size, 3),
                                             dtype=np.uint8)
  start = time.perf_counter()
  dataset_info = catalog.from_config(config)
  model = serving_module.build_network(config, dataset_info)
  built = time.perf_counter()
  network = models.inference_network(config, model)
  if args.jit_compile:
    network = tf.function(network, jit_compile=True, autograph=False)

  def confident(inputs):
    outputs = network(inputs)
    if 'class_logits' in outputs:
      shape = outputs['class_logits'].shape[1:]
      outputs = {**outputs, 'class_logits': outputs['class_logits'] +
                 synthetic_batches.confidence(*shape)}
    if 'center_heatmap' in outputs:
      size = outputs['center_heatmap'].shape[1:3]
      outputs = {**outputs, 'center_heatmap': synthetic_batches.centers(args.batch_size, size)}
    return outputs

  module = serving_module.build(config, dataset_info, model, confident)
  module.predict.get_concrete_function()
  traced = time.perf_counter()
  step = lambda: module.predict(images)['panoptic_map'].numpy()  # noqa: E731
  result = _measure(start, step, args.repeats, args.batch_size)
  return {'inference': {'build_s': built - start, 'trace_s': traced - built, **result}}


def _train_step(config, args) -> dict[str, dict[str, float]]:
  import itertools

  from deeplab_tf import models
  from deeplab_tf.benchmark import synthetic_batches
  from deeplab_tf.data import catalog
  from deeplab_tf.training import distribution, state, trainer
  dataset_info = catalog.from_config(config)
  architecture = models.architecture(config)
  config.trainer_options.jit_compile |= args.jit_compile
  strategy = distribution.build()
  distribution.check(config, strategy)
  batch = synthetic_batches.training_batch(config, dataset_info, architecture.target_form,
                                           args.batch_size, args.input_size)
  start = time.perf_counter()
  model, global_step = state.build_model(config, dataset_info, architecture, strategy)
  built = time.perf_counter()
  learnt = state.build(config, architecture, model, global_step, strategy)
  trained = trainer.build(config, architecture, dataset_info, strategy, learnt,
                          lambda step: itertools.repeat(batch))
  result = _measure(start, lambda: trained.train(1), args.repeats, args.batch_size)
  return {'train_step': {'build_s': built - start, **result}}


def _postprocess(config, args) -> dict[str, dict[str, float]]:
  import tensorflow as tf

  from deeplab_tf import models
  from deeplab_tf.benchmark import synthetic_batches
  from deeplab_tf.data import catalog
  dataset_info = catalog.from_config(config)
  architecture = models.architecture(config)
  make = {'mask': synthetic_batches.mask_outputs,
          'center': synthetic_batches.center_outputs}[architecture.target_form]
  tf.random.set_seed(0)
  height, width = args.input_size
  inputs = make(config, dataset_info, args.batch_size, (-(-height // 4), -(-width // 4)))
  start = time.perf_counter()
  postprocess = architecture.build_postprocessor(config, dataset_info)
  function = tf.function(lambda outputs: postprocess(outputs, (height, width)), autograph=False)
  step = lambda: function(inputs).panoptic_map.numpy()  # noqa: E731
  return {'postprocess': _measure(start, step, args.repeats, args.batch_size)}


def _attention(config, args) -> dict[str, dict[str, float]]:
  from deeplab_tf.benchmark import attention
  forms = attention.find(config, args.input_size)
  if not forms:
    raise UsageError('the network of the config has no axial or local attention')
  precision = config.trainer_options.Precision.Name(config.trainer_options.precision)
  results = {}
  for form, count in forms.items():
    for name in ('inference', 'train step'):
      # The exported model computes in float32.
      result = _in_a_process(f'{form}, {name}', form, name == 'train step',
                             precision if name == 'train step' else 'FLOAT32', args)
      results[f'{form}, {name}'] = {'layers': count, **result}
  return results


def _in_a_process(name: str, *arguments_of_layer) -> dict[str, float]:
  """Measures a layer in a separate process, so that peak memory is that of this layer alone."""
  import multiprocessing
  from concurrent import futures
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
    job = pool.submit(_attention_layer, *arguments_of_layer)
    try:
      return job.result()
    except futures.process.BrokenProcessPool:
      raise UsageError(f'{name}: its process was killed, probably because memory is full; give '
                       'a smaller --input_size or --batch_size') from None


def _attention_layer(form, in_training: bool, precision: str, args) -> dict[str, float]:
  import tensorflow as tf

  from deeplab_tf.benchmark import attention
  from deeplab_tf.layers import folding
  from deeplab_tf.training import precision as precision_lib
  start = time.perf_counter()
  with precision_lib.scope(precision):
    layer = form.make()
  run = attention.train if in_training else attention.infer
  if not in_training:
    folding.fold_norms(layer)
  x = tf.random.stateless_normal([args.batch_size * form.shape[0], *form.shape[1:]], [0, 0])
  function = tf.function(functools.partial(run, layer), jit_compile=args.jit_compile,
                         autograph=False)
  result = _measure(start, lambda: function(x).numpy(), args.repeats, args.batch_size)
  return {**result, 'peak_gb': _peak()}


def _matching(config, args) -> dict[str, dict[str, float]]:
  del config
  import tensorflow as tf

  from deeplab_tf import matching
  tf.random.set_seed(0)
  costs = -tf.random.uniform([args.batch_size, _QUERIES, _TARGETS])
  valid = tf.ones([args.batch_size, _TARGETS], tf.bool)
  results = {}
  for solver in matching.SOLVERS:
    start = time.perf_counter()
    function = tf.function(matching.match, autograph=False)
    step = lambda f=function, name=solver: f(costs, valid, name).numpy()  # noqa: E731
    results[solver] = _measure(start, step, max(args.repeats, 20), args.batch_size)
  return results


def _input_pipeline(config, args) -> dict[str, dict[str, float]]:
  from deeplab_tf import models
  from deeplab_tf.benchmark import input_pipeline
  from deeplab_tf.data import catalog
  dataset_info = catalog.from_config(config)
  kind = models.architecture(config).target_form
  results = {'input_pipeline': _batches(config, dataset_info, kind, args)}
  if kind != 'class':
    options = config.train_dataset_options
    results['input_pipeline']['stages_s'] = input_pipeline.stage_seconds(
        options, dataset_info, kind, max(_STAGE_IMAGES, args.repeats))
    options.CopyFrom(input_pipeline.unaugmented(options))
    results['unaugmented'] = _batches(config, dataset_info, kind, args)
  return results


def _batches(config, dataset_info, kind: str, args) -> dict[str, float]:
  from deeplab_tf.data import pipeline
  start = time.perf_counter()
  batches = iter(pipeline.train_dataset(config, dataset_info, kind, seed=0))
  result = _measure(start, lambda: next(batches), args.repeats, args.batch_size)
  # Batches are prefetched, so only the mean over many batches gives the rate.
  begin = time.perf_counter()
  for _ in range(args.repeats):
    next(batches)
  result['images_per_s'] = args.batch_size * args.repeats / (time.perf_counter() - begin)
  return result


def _evaluation(args) -> dict[str, dict[str, float]]:
  import tempfile

  from deeplab_tf.benchmark import synthetic_maps
  from deeplab_tf.scoring import panoptic_files
  args.input_size = args.input_size or (1024, 2048)
  args.batch_size = 1
  args.repeats = max(args.repeats, 20)
  results = {}
  with tempfile.TemporaryDirectory() as folder:
    files = synthetic_maps.write(folder, args.repeats, args.input_size)
    for name, definition in (('pq', 'panopticapi'), ('boundary_pq', 'boundary')):
      seconds = []
      for _ in range(3):
        start = time.perf_counter()
        panoptic_files.panoptic_score(*files, definition=definition)
        seconds.append((time.perf_counter() - start) / args.repeats)
      median = statistics.median(seconds)
      results[name] = {'first_s': seconds[0], 'median_s': median, 'images_per_s': 1 / median}
  return results


if __name__ == '__main__':
  sys.exit(main())
