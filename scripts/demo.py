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
# Validation images that the exported model segments, and that are scored from files. Those with
# lower indices are scored in the training loop.
UNSEEN = range(1000, 1024)
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
  _step(f'Segmenting {len(UNSEEN)} images that were not used in training or validation')
  from deeplab_tf.data.sources import shapes
  shapes.write_coco_format(str(output / 'unseen'), 'val', UNSEEN)
  _run('evaluation/predict.py', f'--saved_model={output / "saved_model"}',
       f'--output_dir={output / "predictions"}', str(output / 'unseen' / 'images'))
  _run('evaluation/evaluate.py', '--task=panoptic',
       f'--ground_truth={output / "unseen" / "panoptic.json"}',
       f'--predictions={output / "predictions"}', f'--output={output / "unseen_metrics.json"}',
       f'--report={output / "evaluation"}', f'--images={output / "unseen" / "images"}')
  _step('Writing the report')
  _write_report(output, time.monotonic() - start)
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


def _write_report(output: pathlib.Path, seconds: float) -> None:
  """Writes the report: curves from the TensorBoard logs, scores, and the unseen images."""
  from deeplab_tf import segmenter as segmenter_lib
  from deeplab_tf.data.sources import shapes
  from deeplab_tf.metrics import panoptic_quality
  from deeplab_tf.reports import page, training_report
  segmenter = segmenter_lib.Segmenter.from_saved_model(str(output / 'saved_model'))
  info = segmenter.dataset_info
  gallery = []
  for index in UNSEEN:
    image, label = shapes.generate('val', index)
    prediction = segmenter(image).panoptic_map
    quality = panoptic_quality.PanopticQuality(info.categories)
    quality.update_from_label_maps(label, prediction, info)
    score = quality.result()['All']['pq']
    gallery.append(page.gallery_item(f'image {index}', image, ground_truth=label,
                                     prediction=prediction, dataset_info=info, score=score))
  scores = json.loads((output / 'metrics.json').read_text())
  # JSON keys are strings.
  scores['per_class'] = {int(k): v for k, v in scores['per_class'].items()}
  unseen = json.loads((output / 'unseen_metrics.json').read_text())
  training_report.write(
      str(output / 'report.html'), 'MaX-DeepLab on shapes',
      summary={
          'training steps': scores.pop('step'),
          'time of the whole demo': f'{seconds / 60:.1f} minutes',
          f'PQ of the exported model on the {len(UNSEEN)} images below':
              f'{100 * unseen["All"]["pq"]:.1f}',
          'config': CONFIG,
      },
      curves=training_report.read_curves(str(output / 'model')), scores=scores,
      class_names={c.category_id: c.name for c in info.categories}, gallery=gallery)


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
