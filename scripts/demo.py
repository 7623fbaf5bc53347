"""The main workflow end to end on synthetic data: train, score, export, segment, report.

  python scripts/demo.py --output_dir=demo

Every step calls the program that a user would call, and prints the command.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

from deeplab_tf import cli, listing

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = 'configs/shapes/max_deeplab_s.textproto'
# Number of images that the exported model segments, and that are scored from files.
NUM_UNSEEN = 24
# Validation images with lower indices are scored in the training loop.
FIRST_UNSEEN = 1000
_TRAIN_IMAGES = 6000


def main() -> None:
  """Runs the demo."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output_dir', default='demo',
                      help='output folder, which is emptied first (default: demo)')
  parser.add_argument('--override', action='append', default=[], metavar='TEXTPROTO',
                      help='override of the training config')
  args = parser.parse_args()
  cli.quiet_tensorflow()
  output = pathlib.Path(args.output_dir).resolve()
  start = time.monotonic()
  _empty(output)
  overrides = [_data_override(output)] + args.override

  _step('Generating the training images')
  _run('-m', 'deeplab_tf.data.build', '--dataset=shapes', '--split=train',
       f'--num_images={_TRAIN_IMAGES}', f'--output_dir={output / "records"}')
  _step('Training and scoring MaX-DeepLab')
  _run('trainer/train.py', f'--config_file={CONFIG}', f'--model_dir={output / "model"}',
       '--mode=train_and_eval', *[f'--override={o}' for o in overrides])
  shutil.copy(output / 'model' / 'metrics.json', output / 'metrics.json')
  _step('Exporting a SavedModel')
  _run('trainer/export.py', f'--config_file={output / "model" / "config.textproto"}',
       f'--checkpoint={output / "model"}', f'--export_dir={output / "saved_model"}')
  _step(f'Segmenting {NUM_UNSEEN} images that were not used in training or validation')
  labels = _draw_unseen(output / 'unseen')
  _run('evaluation/predict.py', f'--saved_model={output / "saved_model"}',
       f'--output_dir={output / "predictions"}', str(output / 'unseen' / 'images'))
  _run('evaluation/evaluate.py', '--task=panoptic',
       f'--ground_truth={output / "unseen" / "panoptic.json"}',
       f'--predictions={output / "predictions"}', f'--output={output / "unseen_metrics.json"}',
       f'--report={output / "evaluation"}', f'--images={output / "unseen" / "images"}')
  _step('Writing the report')
  _write_report(output, labels, time.monotonic() - start)
  _say_where(output, time.monotonic() - start)


def _step(text: str) -> None:
  print(f'\n== {text}', flush=True)


def _run(*arguments: str) -> None:
  shown = ' '.join(f"'{a}'" if ' ' in a else a for a in arguments)
  print(f'$ python {shown}', flush=True)
  result = subprocess.run([sys.executable, *arguments], cwd=ROOT)
  if result.returncode:
    sys.exit(result.returncode)


def _empty(output: pathlib.Path) -> None:
  """Creates the folder, and removes the output of an earlier demo."""
  names = os.listdir(output) if output.exists() else []
  if 'records' not in names and not all(map(listing.is_left_by_system, names)):
    sys.exit(f'error: {output} contains other files; give another --output_dir')
  shutil.rmtree(output, ignore_errors=True)
  output.mkdir(parents=True)


def _data_override(output: pathlib.Path) -> str:
  # Strings are quoted in JSON like in a textproto.
  pattern = json.dumps(str(output / 'records' / 'train-*.tfrecord'))
  return f'train_dataset_options {{ file_pattern: {pattern} }}'


def _draw_unseen(folder: pathlib.Path) -> dict:
  """Writes images and their ground truth in the COCO panoptic format; returns labels by name."""
  from PIL import Image

  from deeplab_tf.data import catalog
  from deeplab_tf.data.sources import _shape_scenes
  from deeplab_tf.formats import coco_panoptic
  info = catalog.built_in('shapes')
  images, annotations, labels = [], [], {}
  for part in ('images', 'panoptic'):
    (folder / part).mkdir(parents=True)
  for index in range(NUM_UNSEEN):
    name = f'unseen_{index:03d}'
    image, label = _shape_scenes.generate('val', FIRST_UNSEEN + index)
    Image.fromarray(image).save(folder / 'images' / f'{name}.png')
    ids, segments = coco_panoptic.from_label_map(label, info)
    coco_panoptic.write_panoptic_png(folder / 'panoptic' / f'{name}.png', ids)
    images.append({'id': name, 'file_name': f'{name}.png', 'height': image.shape[0],
                   'width': image.shape[1]})
    annotations.append({'image_id': name, 'file_name': f'{name}.png', 'segments_info': segments})
    labels[name] = label
  categories = [{'id': c.category_id, 'name': c.name, 'isthing': int(c.isthing),
                 'color': list(c.color)} for c in info.categories]
  coco_panoptic.write_json(folder / 'panoptic.json', {
      'images': images, 'annotations': annotations, 'categories': categories})
  return labels


def _write_report(output: pathlib.Path, labels: dict, seconds: float) -> None:
  """Writes the report: curves from the TensorBoard logs, scores, and the unseen images."""
  import numpy as np
  from PIL import Image

  from deeplab_tf import segmenter as segmenter_lib
  from deeplab_tf.metrics import panoptic_quality
  from deeplab_tf.reports import page, training_report
  segmenter = segmenter_lib.Segmenter.from_saved_model(str(output / 'saved_model'))
  info = segmenter.dataset_info
  gallery = []
  for name, label in labels.items():
    image = np.asarray(Image.open(output / 'unseen' / 'images' / f'{name}.png'))
    prediction = segmenter(image).panoptic_map
    quality = panoptic_quality.PanopticQuality(info.categories)
    quality.update_from_label_maps(label, prediction, info)
    score = quality.result()['All']['pq']
    gallery.append(page.gallery_item(name, image, label, prediction, info, score))
  scores = json.loads((output / 'metrics.json').read_text())
  # JSON keys are strings.
  scores['per_class'] = {int(k): v for k, v in scores['per_class'].items()}
  unseen = json.loads((output / 'unseen_metrics.json').read_text())
  training_report.write(
      str(output / 'report.html'), 'MaX-DeepLab on shapes',
      {
          'training steps': scores.pop('step'),
          'time of the whole demo': f'{seconds / 60:.1f} minutes',
          f'PQ of the exported model on the {len(labels)} images below':
              f'{100 * unseen["All"]["pq"]:.1f}',
          'config': CONFIG,
      }, _curves(output / 'model'), scores,
      {c.category_id: c.name for c in info.categories}, gallery)


def _curves(model_dir: pathlib.Path) -> dict:
  """Returns the scalars of the TensorBoard logs: tag -> [(step, value)]."""
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
  from tensorboard.util import tensor_util
  curves = {}
  for part, prefix in (('train', ''), ('eval', 'validation/')):
    events = EventAccumulator(str(model_dir / part), size_guidance={'tensors': 0})
    events.Reload()
    for tag in events.Tags()['tensors']:
      points = [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
      if points and points[0][1].shape == () and points[0][1].dtype.kind == 'f':
        curves[prefix + (tag.replace('/', ' ') if prefix else tag)] = [
            (step, float(value)) for step, value in points]
  # Counts, parts of PQ and machine statistics would clutter the plots.
  return {name: points for name, points in curves.items()
          if not name.endswith((' n', ' sq', ' rq', 'matched_masks'))
          and not name.startswith(('losses_unweighted/', 'memory/', 'weight_norm', 'loss_scale',
                                   'skipped_steps'))}


def _say_where(output: pathlib.Path, seconds: float) -> None:
  scores = json.loads((output / 'metrics.json').read_text())
  _step(f'Done in {seconds / 60:.1f} minutes')
  for group in ('All', 'Things', 'Stuff'):
    figures = (f'{key.upper()} {100 * scores[group][key]:5.1f}' for key in ('pq', 'sq', 'rq'))
    print(f'{group:7s} {"   ".join(figures)}')
  print(f'Report:      {output / "report.html"}')
  print(f'Evaluation:  {output / "evaluation" / "index.html"}')
  print(f'Pictures:    {output / "predictions"}')
  print(f'SavedModel:  {output / "saved_model"}')
  print(f'TensorBoard: {sys.executable} -m tensorboard.main --logdir={output / "model"}')


if __name__ == '__main__':
  main()
