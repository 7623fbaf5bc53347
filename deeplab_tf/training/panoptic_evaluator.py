"""Scores panoptic segmentation on the evaluation data, for Orbit's Controller."""

from typing import Any, Sequence

from deeplab_tf.layers.resizing import ResizeRule
from deeplab_tf.metrics.accumulator import Group
from deeplab_tf.metrics.panoptic_quality import PanopticQuality, format_result
from deeplab_tf.structures import QueryOutputs, ScoredPrediction
from deeplab_tf.training.evaluator import EvaluatedImage, ImageEvaluator
from deeplab_tf.training.extra_scores import ExtraScore, ScoredImage

# Name of panoptic quality among the scores.
_PANOPTIC = 'panoptic'


class PanopticEvaluator(ImageEvaluator):
  """Computes panoptic quality and extra scores at the size of the files.

  Attributes:
    result: The last result: that of PanopticQuality.result, and name -> result of each extra score.
  """
  title = 'panoptic quality'
  scores = tuple(f'{group}/{name}' for group in ('All', 'Things', 'Stuff')
                 for name in ('pq', 'sq', 'rq', 'n'))

  def __init__(self, *, extra_scores: Sequence[ExtraScore] = (),
               logits_rule: ResizeRule = 'aligned', **images: Any):
    """Initializes the evaluator.

    Args:
      extra_scores: Scores besides panoptic quality.
      logits_rule: Rule by which the network's logits are resized to its input.
      **images: Arguments of ImageEvaluator; without `at_full_size` predictions are
        PanopticPrediction, or ScoredPrediction if an extra score needs the queries.
    """
    super().__init__(**images)
    self._extra = tuple(extra_scores)
    self.scores = (*self.scores, *(f'{score.name}/{tag}' for score in self._extra
                                   for tag in score.tags))
    self._logits_rule = logits_rule

  def format_result(self) -> str:
    """Returns the result as a table, with a line for each value of the extra scores."""
    lines = [format_result(self.result)]
    for tag, value in self._extra_scalars(self.result).items():
      if not tag.endswith('/n'):
        lines.append(f'{tag:<24}{100 * value:6.1f}')
    return '\n'.join(lines)

  def _new_metric(self) -> Group:
    return Group({_PANOPTIC: PanopticQuality(self._dataset_info.categories),
                  **{score.name: score.new_metric() for score in self._extra}})

  def _result(self, metric: Group) -> dict:
    result = metric.result()
    return {**result.pop(_PANOPTIC), **result}

  def _score_image(self, metric: Group, image: EvaluatedImage):
    scored = self._scored_image(image)
    panoptic_map = scored.prediction.panoptic_map[0].numpy()
    metric.parts[_PANOPTIC].update_from_label_maps(image.label, panoptic_map, self._dataset_info)
    for score in self._extra:
      score.update(metric.parts[score.name], scored)
    return image.label, panoptic_map

  def _scalars(self, result: dict) -> dict:
    return {**flat_scalars(result), **self._extra_scalars(result)}

  def _extra_scalars(self, result: dict) -> dict:
    return {tag: value for score in self._extra
            for tag, value in score.scalars(result[score.name]).items()}

  def _scored_image(self, image: EvaluatedImage) -> ScoredImage:
    own = image.prediction
    if isinstance(own, QueryOutputs):
      panoptic, queries = own, own
    else:
      panoptic, queries = own if isinstance(own, ScoredPrediction) else (own, None)
    return ScoredImage(image.name, image.label, self._restored(image, panoptic), queries,
                       image.size, self._logits_rule)


def flat_scalars(result: dict) -> dict:
  """Returns 'All/pq' and so on from a PanopticQuality result, without unavailable values."""
  return {f'{group}/{name}': value for group in ('All', 'Things', 'Stuff')
          for name, value in result[group].items() if value is not None}
