"""Passes over which a semantic Mask2Former averages its scores, from a config.

Each pass starts at the pixels of the file and resizes them as an evaluation without averaging does,
with another length of the shorter side.
"""

from typing import Callable

from deeplab_tf.data import image_normalization, pipeline
from deeplab_tf.data.augmentation import options as options_lib
from deeplab_tf.postprocessing.averaged_scores import AllPasses, ScorePass


def build(config) -> list[ScorePass]:
  """Returns the passes that evaluator_options describe.

  For each of eval_scales the shorter side is min_resize_value times the scale, rounded half up. The
  limit of the longer side is eval_max_resize_value or, where that is 0, max_resize_value times the
  scale. With add_flipped_images a pass with the mirrored image follows each of these.
  """
  options, data = config.evaluator_options, config.eval_dataset_options
  normalization = image_normalization.build(config.model_options)
  base = options_lib.build_for_evaluation(data, normalization)
  passes = []
  for scale in options.eval_scales or (1.0,):
    limit = options.eval_max_resize_value or _scaled(base.max_longer_side, scale)
    augmentation = base._replace(
        shorter_sides=(max(_scaled(base.shorter_sides[0], scale), 1),), max_longer_side=limit)
    for is_flipped in (False, True) if options.add_flipped_images else (False,):
      passes.append(ScorePass(*_functions(augmentation), is_flipped))
  return passes


def build_network(config, model) -> Callable:
  """Returns the function from normalized images, of the size of their files, to all outputs."""
  return AllPasses(model, build(config), image_normalization.build(config.model_options).invert)


def _scaled(length: int, scale: float) -> int:
  return int(length * scale + 0.5)


def _functions(augmentation):
  """Returns the functions `prepare` and `sizes` of a ScorePass."""

  def sizes(raw_size):
    resized = pipeline.evaluation_size(raw_size, augmentation)
    return resized + -resized % augmentation.size_divisor, resized

  return lambda image: pipeline.prepare_for_evaluation(image, augmentation)[0], sizes
