"""Prints our scores next to those of the reference evaluators on the same inputs.

  python scripts/reference_scores.py --reference_dir=SHARED/parity/evaluation

The output is the tables of docs/evaluation.md. The tests compare these numbers and more.
"""

import argparse
import json
import pathlib
from typing import Any, Iterable, Optional

import numpy as np
from pycocotools import mask as mask_lib

from deeplab_tf.formats import coco_panoptic
from deeplab_tf.metrics.instance_average_precision import InstanceAveragePrecision
from deeplab_tf.metrics.mean_iou import MeanIoU
from deeplab_tf.scoring import instance_files, panoptic_files


def main() -> None:
  """Runs the program."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--reference_dir', type=pathlib.Path, required=True,
                      help='folder with pq/, instance_ap/, miou/ and panoptic_model/')
  folder = parser.parse_args().reference_dir
  print(*panoptic(folder / 'pq'), '', *instances(folder / 'instance_ap'), '',
        *semantic(folder / 'miou'), '', *queries(folder / 'panoptic_model'), sep='\n')


def panoptic(folder: pathlib.Path) -> Iterable[str]:
  """Returns the lines of the table of panoptic quality, in percent."""
  yield _row('set', 'PQ', 'panopticapi', 'boundary PQ', 'boundary-iou-api', 'PQ, as DeepLab2',
             'DeepLab2', 'largest difference')
  yield _row(*['---'] * 8)
  for path, expected in _sets(folder):
    cells, largest = [], 0.0
    for key, definition in (('panopticapi', 'panopticapi'), ('boundary_pq', 'boundary'),
                            ('deeplab2', 'deeplab2')):
      own = panoptic_files.panoptic_score(
          path / 'gt.json', path / 'pred.json', definition=definition).metric.result()['All']['pq']
      result = expected[key]['result'] if key == 'deeplab2' else expected[key]['All']
      if key != 'deeplab2':  # DeepLab2 counts in float32.
        largest = max(largest, _difference(own, result['pq']))
      cells += [_per_cent(own), _per_cent(result['pq'])]
    yield _row(path.name, *cells, f'{largest:.0e}')


def instances(folder: pathlib.Path) -> Iterable[str]:
  """Returns the lines of the table of average precision, in percent."""
  yield _row('set', 'AP', 'COCOeval', 'boundary AP', 'boundary-iou-api', 'largest difference')
  yield _row(*['---'] * 6)
  for path, expected in _sets(folder):
    cells, largest = [], 0.0
    for kind in ('segm', 'boundary'):
      own = instance_files.instance_score(path / 'gt.json', path / 'results.json', kind).figures
      reference = expected[kind]['stats']
      largest = max([largest, *(_difference(own[name], reference[name]) for name in own)])
      cells += [_per_cent(own['AP']), _per_cent(reference['AP'])]
    yield _row(path.name, *cells, f'{largest:.0e}')


def semantic(folder: pathlib.Path) -> Iterable[str]:
  """Returns the lines of the table of mean IoU, in percent."""
  yield _row('set', 'mIoU', 'reference', 'mIoU, non-empty union', 'reference', 'fwIoU', 'reference')
  yield _row(*['---'] * 7)
  for path, expected in _sets(folder):
    data = np.load(path / 'data.npz')
    # An ignored class among the channels is a separate class in the matrix.
    metric = MeanIoU(range(expected['num_classes']), expected['ignore_label'])
    for number in range(expected['images']):
      metric.update(data[f'gt_{number}'], data[f'pred_{number}'])
    result = metric.result()
    pairs = ((result['miou'], expected['miou_over_classes_in_gt']),
             (result['miou_union'], expected['miou_over_classes_with_nonempty_union']),
             (result['fwiou'], expected['frequency_weighted_iou']))
    yield _row(path.name, *(_per_cent(value) for pair in pairs for value in pair))


def queries(folder: pathlib.Path) -> Iterable[str]:
  """Returns the lines of the table of scores of queries, in percent."""
  from deeplab_tf.postprocessing import mask2former
  expected, outputs = _json(folder / 'expected.json'), np.load(folder / 'model_outputs.npz')
  classes, truth = _json(folder / 'classes.json'), _json(folder / 'instances_gt.json')
  ids, is_thing = classes['dataset_ids'], [bool(thing) for thing in classes['isthing']]
  miou = MeanIoU(ids, ignore_label=-1)
  ap = InstanceAveragePrecision(c['id'] for c in truth['categories'])
  for image_id, file_name, segments in coco_panoptic.load_ground_truth(
      folder / 'panoptic_gt.json').annotations:
    class_logits = outputs[f'class_logits_{image_id}']
    mask_logits = outputs[f'mask_logits_x8_{image_id}'].astype(np.float32).transpose(1, 2, 0) / 8
    found = mask2former.semantic_inference(class_logits, mask_logits, masks_compete=False)
    segment_ids = coco_panoptic.read_panoptic_png(folder / 'panoptic_gt' / file_name)
    truth_map = np.full(segment_ids.shape, -1)
    for segment in segments:
      truth_map[segment_ids == segment.id] = segment.category_id
    miou.update(truth_map, np.array(ids)[found.semantic_map.numpy()])
    instances = mask2former.instance_inference(class_logits, found.quality, is_thing)
    ap.update(image_id, truth_map.shape,
              [a for a in truth['annotations'] if a['image_id'] == image_id],
              [{'category_id': ids[c], 'score': score,
                'segmentation': mask_lib.encode(np.asfortranarray(found.mask(q), np.uint8))}
               for q, c, score in zip(*(x.numpy().tolist() for x in instances))])
  yield _row('score', 'ours', "Mask2Former's program")
  yield _row('---', '---', '---')
  yield _row('mIoU_pan', _per_cent(miou.result()['miou']),
             _per_cent(expected['semantic_marginal']['miou']['classes_in_gt']))
  for name, reference in zip(('AP', 'AP50', 'AP75'), expected['instance_top100']['stats']):
    yield _row(f'{name}^Th_pan', _per_cent(ap.result()[name]), _per_cent(reference))


def _json(path: pathlib.Path) -> Any:
  return json.loads(path.read_text())


def _sets(folder: pathlib.Path) -> Iterable[tuple[pathlib.Path, Any]]:
  for path in sorted(folder.iterdir()):
    if (path / 'expected.json').is_file():
      yield path, _json(path / 'expected.json')


def _difference(own: Optional[float], reference: Optional[float]) -> float:
  return 0.0 if own is None or reference is None else abs(own - reference)


def _per_cent(value: Optional[float]) -> str:
  return 'none' if value is None else f'{100 * value:.4f}'


def _row(*cells: str) -> str:
  return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
  main()
