"""evaluation/predict.py."""

import json

import numpy as np
import programs
import pytest
import tensorflow as tf
import tiny
import tiny_centers
from PIL import Image

import deeplab_tf
from deeplab_tf.checkpoints import convert
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.export import saved_model, serving_module
from deeplab_tf.formats import coco_panoptic

PROGRAM = 'evaluation/predict.py'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp('predict')
  path = tiny.write_config(folder)
  config = deeplab_tf.load_config(path)
  keras.utils.set_random_seed(1)
  model = deeplab_tf.build_model(config)
  prefix = convert.save_checkpoint(model, str(folder / 'ckpt-0'))
  info = catalog.from_config(config)
  saved_model.export_saved_model(serving_module.build(config, info, model), config, info,
                                 folder / 'saved_model')
  return path, prefix, folder / 'saved_model'


def _pixels(height=60, width=80, seed=0):
  coarse = np.random.default_rng(seed).uniform(0, 255, (5, 6, 3))
  return tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8).numpy()


def _check_annotation(annotation, image, segmenter, output, pixels):
  """The files of one image say what the segmenter says."""
  result = segmenter(pixels)
  ids = coco_panoptic.read_panoptic_png(output / annotation['file_name'])
  assert ids.shape == pixels.shape[:2] == (image['height'], image['width'])
  info = segmenter.dataset_info
  assert {s['id'] for s in annotation['segments_info']} == set(np.unique(ids)) - {0}
  assert len(result.segments) == len(annotation['segments_info']) >= 1
  for entry in annotation['segments_info']:
    inside = ids == entry['id']
    label = int(result.panoptic_map[inside][0])
    assert (result.panoptic_map[inside] == label).all()
    segment = next(s for s in result.segments if s.id == label)
    assert entry['area'] == segment.area == inside.sum()
    assert (entry['category_id'], entry['isthing']) == (segment.category_id, segment.isthing)
    assert entry['score'] == pytest.approx(segment.score, abs=1e-5)
    rows, columns = np.nonzero(inside)
    assert entry['bbox'] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
  assert (ids == 0).sum() == (result.panoptic_map == info.void_label).sum()


def test_images_of_all_kinds_are_segmented_and_bad_ones_named(trained, tmp_path):
  folder, output = tmp_path / 'images', tmp_path / 'out'
  (folder / 'deeper').mkdir(parents=True)
  pixels = _pixels()
  Image.fromarray(pixels).save(folder / '000000000139.png')
  Image.fromarray(pixels).save(folder / 'UPPER.JPG', format='JPEG')
  alpha = np.dstack([pixels, np.full((60, 80), 128, np.uint8)])
  Image.fromarray(alpha).save(folder / 'alpha.png')
  Image.fromarray(pixels[..., 0]).save(folder / 'gray.png')
  Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / 'deep.png')
  exif = Image.Exif()
  exif[0x0112] = 6  # To be turned by 90 degrees.
  Image.fromarray(pixels).save(folder / 'turned.jpeg', exif=exif)
  Image.fromarray(_pixels(seed=5)).save(folder / 'alpha.jpg')  # The name of another.
  Image.fromarray(_pixels(seed=6)).save(folder / 'deeper' / 'gray.png')
  Image.fromarray(pixels).save(folder / '.hidden.png')
  (folder / '._alpha.png').write_bytes(b'of macOS')
  (folder / 'broken.jpg').write_bytes((folder / 'UPPER.JPG').read_bytes()[:300])
  (folder / 'text.png').write_text('no image')
  (folder / 'notes.txt').write_text('no image')
  line = programs.error_line(PROGRAM, f'--saved_model={trained[2]}', f'--output_dir={output}',
                             folder)
  assert '2 of 10 images' in line and 'broken.jpg' in line and 'text.png' in line
  content = json.loads((output / 'predictions.json').read_text())
  images = {image['file_name']: image for image in content['images']}
  annotations = {a['image_id']: a for a in content['annotations']}
  assert set(images) == {'000000000139.png', 'UPPER.JPG', 'alpha.png', 'alpha.jpg', 'gray.png',
                         'deep.png', 'turned.jpeg', 'deeper/gray.png'}
  assert {name: image['id'] for name, image in images.items()} == {
      '000000000139.png': 139, 'UPPER.JPG': 'UPPER', 'alpha.png': 'alpha.png',
      'alpha.jpg': 'alpha.jpg', 'gray.png': 'gray', 'deep.png': 'deep', 'turned.jpeg': 'turned',
      'deeper/gray.png': 'deeper/gray'}
  assert len(annotations) == len({a['file_name'] for a in annotations.values()}) == 8
  assert annotations['deeper/gray']['file_name'] == 'deeper/gray.png'
  segmenter = deeplab_tf.Segmenter.from_saved_model(trained[2])
  gray = np.repeat(pixels[..., :1], 3, axis=2)
  turned = np.rot90(np.asarray(Image.open(folder / 'turned.jpeg')), -1)
  for name, expected in (('000000000139.png', pixels), ('alpha.png', pixels), ('gray.png', gray),
                         ('deep.png', gray), ('turned.jpeg', turned),
                         ('deeper/gray.png', _pixels(seed=6)),
                         ('alpha.jpg', np.asarray(Image.open(folder / 'alpha.jpg')))):
    annotation = annotations[images[name]['id']]
    _check_annotation(annotation, images[name], segmenter, output, expected)
    overlay = Image.open(output / annotation['file_name'].replace('.png', '_overlay.png'))
    assert overlay.size == expected.shape[1::-1]
  things = [c for c in content['categories'] if c['isthing']]
  assert len(things) == len(segmenter.dataset_info.thing_class_ids)


def test_a_checkpoint_serves_as_well_and_ids_come_from_the_ground_truth(trained, tmp_path):
  config, prefix, directory = trained
  image = tmp_path / 'a' / 'scene.png'
  image.parent.mkdir()
  Image.fromarray(_pixels(40, 70)).save(image)
  truth = tmp_path / 'truth.json'
  truth.write_text(json.dumps({'images': [{'id': 77, 'file_name': 'val/scene.jpg'}]}))
  programs.run(PROGRAM, f'--config_file={config}', f'--checkpoint={prefix}',
               f'--output_dir={tmp_path / "out"}', f'--ground_truth={truth}', image)
  content = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  assert [i['id'] for i in content['images']] == [77]
  segmenter = deeplab_tf.Segmenter.from_saved_model(directory)
  _check_annotation(content['annotations'][0], content['images'][0], segmenter, tmp_path / 'out',
                    _pixels(40, 70))


def test_what_is_predicted_can_be_evaluated_without_a_flag(trained, tmp_path):
  # Text ids with leading zeros, images of one name in two folders; predictions as ground truth.
  for index, name in enumerate(('cam0/0001', 'cam1/0001', 'cam1/0002')):
    (tmp_path / 'val' / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_pixels(seed=index)).save(tmp_path / 'val' / f'{name}.png')
  out = tmp_path / 'out'
  programs.run(PROGRAM, f'--saved_model={trained[2]}', f'--output_dir={out}', tmp_path / 'val')
  content = json.loads((out / 'predictions.json').read_text())
  assert [image['id'] for image in content['images']] == ['cam0/0001', 'cam1/0001', 2]
  new_ids = {'cam0/0001': '0002', 'cam1/0001': '0001', 2: '0000'}
  for image in content['images']:
    image['id'] = new_ids[image['id']]
  for annotation in content['annotations']:
    annotation['image_id'] = new_ids[annotation['image_id']]
  (tmp_path / 'gt.json').write_text(json.dumps(content))
  done = programs.run('evaluation/evaluate.py', '--task=panoptic', f'--predictions={out}',
                      f'--ground_truth={tmp_path / "gt.json"}', f'--ground_truth_dir={out}',
                      f'--output={tmp_path / "scores.json"}')
  assert json.loads((tmp_path / 'scores.json').read_text())['All']['pq'] == 1.0
  assert 'images are paired by file name' in done.stderr


@pytest.mark.slow
def test_flags_average_over_scales_and_mirrored_images(tmp_path):
  path = tiny_centers.write_config(tmp_path)
  keras.utils.set_random_seed(1)
  prefix = convert.save_checkpoint(deeplab_tf.build_model(deeplab_tf.load_config(path)),
                                   str(tmp_path / 'ckpt-0'))
  image = tmp_path / 'scene.png'
  Image.fromarray(_pixels()).save(image)
  programs.run(PROGRAM, f'--config_file={path}', f'--checkpoint={prefix}', image,
               f'--output_dir={tmp_path / "out"}', '--eval_scales=0.75,1', '--add_flipped_images')
  content = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
  plain, averaged = (
      deeplab_tf.Segmenter.from_checkpoint(deeplab_tf.load_config(path, overrides), prefix)
      for overrides in ([], ['evaluator_options { eval_scales: [0.75, 1] '
                             'add_flipped_images: true }']))
  assert (plain(_pixels()).panoptic_map != averaged(_pixels()).panoptic_map).any()
  _check_annotation(content['annotations'][0], content['images'][0], averaged, tmp_path / 'out',
                    _pixels())


def test_wrong_use_is_one_line(trained, tmp_path):
  image = tmp_path / 'a.png'
  Image.fromarray(_pixels()).save(image)
  out = f'--output_dir={tmp_path / "out"}'
  model = f'--saved_model={trained[2]}'
  checkpoint = (f'--config_file={trained[0]}', f'--checkpoint={trained[1]}')
  for args, message in (
      ([out, image], 'either --saved_model'),
      ([out, image, '--config_file=x'], '--checkpoint is missing'),
      ([out, image, model, '--config_file=x', '--checkpoint=y'], 'either --saved_model'),
      ([out, image, model, '--override=x'], '--override changes a config'),
      ([out, image, model, '--eval_scales=0.5'], '--eval_scales and --add_flipped_images are for'),
      ([out, image, model, '--add_flipped_images'], 'a SavedModel is fixed'),
      ([out, image, model, '--eval_scales=1;2'], '"1;2" is not a list of scales'),
      ([out, image, *checkpoint, '--eval_scales=0.5,1'], 'which only panoptic_deeplab makes'),
      ([out, image, *checkpoint, '--eval_scales=0'], 'it must be from 0.1 to 10'),
      ([out, model, tmp_path / 'nothing.jpg'], 'nothing.jpg: no such image'),
      ([out, model, trained[2]], 'holds no .jpg'),
      ([f'--output_dir={tmp_path}', model, image], 'would be overwritten'),
      ([out, f'--saved_model={tmp_path}', image], 'holds no saved_model.pb'),
  ):
    assert message in programs.error_line(PROGRAM, *args)
  before = Image.open(image)
  np.testing.assert_array_equal(np.asarray(before), _pixels())
