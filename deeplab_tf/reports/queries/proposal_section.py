"""The section about the masks after decoder layers as proposals (Mask2Former, figure 3)."""

import os
from typing import Any

import numpy as np

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.metrics.percent import percent
from deeplab_tf.reports.queries import query_figures, query_pictures
from deeplab_tf.reports.queries.proposals import Example, ProposalSurvey
from deeplab_tf.reports.queries.query_page import Section
from deeplab_tf.visualization import draw

# Small images are enlarged to this side in pixels before lines are drawn on them.
_SIDE = 480
# Name of a score on the page -> name of the metric's.
_SCORES = {'AR@100': 'AR100', 'small': 'ARs', 'medium': 'ARm', 'large': 'ARl'}


def proposals(folder: str, survey: ProposalSurvey, info: DatasetInfo,
              numbers: dict[str, Any]) -> Section:
  """Shows the recall of the queries' masks after decoder layers, and the masks themselves.

  Args:
    folder: Output folder.
    survey: Recall of the layers and example images.
    info: Description of the classes.
    numbers: Dictionary to which an entry `proposals` is added.
  """
  title = 'Proposals of the decoder layers'
  results = survey.results()
  if not results:
    return Section(title, '', (), [
        'Left out: this model predicts masks after its last layer only.'])
  if not survey.examples:
    return Section(title, '', (), ['Left out: the ground truth has no things.'])
  layers = list(results)
  numbers['proposals'] = {
      'layers': layers,
      **{name: [results[layer][name] for layer in layers] for name in _SCORES.values()},
      'examples': [_numbers(example) for example in survey.examples]}
  bars, pictures = (os.path.join(folder, name) for name in ('proposal_recall.png',
                                                            'proposals.png'))
  query_figures.proposal_recall(bars, layers, [results[layer]['AR100'] for layer in layers])
  query_figures.proposals(
      pictures, [_row(example, info) for example in survey.examples],
      ['things of the ground truth', *map(query_figures.layer_title, layers)])
  table = [('layer', *_SCORES)] + [
      (query_figures.layer_title(layer), *(percent(result[name]) for name in _SCORES.values()))
      for layer, result in results.items()]
  learned = (
      'Layer 0 stands for the learned queries before the first layer, whose masks are region '
      'proposals: *if their recall is near that of the last layer, learned queries find things '
      'before they read the image*. ' if 0 in layers else '')
  return Section(
      title,
      'How well the masks of the queries cover the things of the ground truth, *whatever class '
      'they predict*: COCO\'s average recall with at most 100 masks per image (AR@100, over IoUs '
      f'from 0.5 to 0.95), in percent. {learned}The table also tells small (below '
      '32² pixels), medium and large (96² pixels or more) things apart. Below, the largest things '
      'of some images and, in the same colors, the mask that fits each of them best after each '
      'layer, with its query and its IoU. (Mask2Former, figure 3)',
      [(bars, ''), (pictures, '')], (), table)


def _numbers(example: Example) -> dict[str, Any]:
  return {'name': example.name, 'class_ids': example.class_ids,
          'queries': [[match.query for match in matches] for matches in example.matches.values()],
          'ious': [[match.iou for match in matches] for matches in example.matches.values()]}


def _row(example: Example, info: DatasetInfo) -> query_figures.ProposalRow:
  image = draw.enlarge(example.image, _SIDE)
  width = max(2, min(image.shape[:2]) // 130)

  def outlined(masks: list[np.ndarray]) -> np.ndarray:
    return query_pictures.outlined(image, [draw.enlarge(mask, _SIDE) for mask in masks], width)

  pictures, notes = [outlined(example.masks)], [
      [draw.short_name(info.by_class_id[class_id].name) for class_id in example.class_ids]]
  for matches in example.matches.values():
    pictures.append(outlined([match.mask for match in matches]))
    notes.append([f'{match.query}: {100 * match.iou:.0f}%' for match in matches])
  return query_figures.ProposalRow(pictures, notes,
                                   query_pictures.COLORS[:len(example.masks)])
