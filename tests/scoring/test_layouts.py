"""Predict, evaluate and submit by the documented commands, on the layouts of docs/datasets.md."""

import os
import zipfile

import numpy as np
import pytest

from deeplab_tf.data import catalog
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.scoring import panoptic_files, predicted_images, submission

# Layout: folder that predict.py is given, images below it with id and file_name as the ground
# truth lists them, data set, and benchmark if there is one.
LAYOUTS = {
    'coco': ('val2017', {
        '000000142238.jpg': (142238, '000000142238.jpg'),
        '000000439180.jpg': (439180, '000000439180.jpg')}, 'coco_panoptic', 'coco_panoptic'),
    'cityscapes': ('leftImg8bit/val', {
        f'{city}/{city}_000000_{frame}_leftImg8bit.png': (
            f'{city}_000000_{frame}', f'{city}_000000_{frame}_gtFine_leftImg8bit.png')
        for city, frame in (('aland', '000019'), ('aland', '000020'), ('bland', '000019'))},
                   'cityscapes_panoptic', 'cityscapes_panoptic'),
    'ade20k': ('images/validation', {
        'ADE_val_00000001.jpg': ('ADE_val_00000001', 'ADE_val_00000001.jpg'),
        'ADE_val_00000002.jpg': ('ADE_val_00000002', 'ADE_val_00000002.jpg')},
               'ade20k_panoptic', 'ade20k_semantic'),
    'vistas': ('validation/images', {
        '_1Gn_xkw7sa_i9GU4mkxxQ.jpg': ('_1Gn_xkw7sa_i9GU4mkxxQ', '_1Gn_xkw7sa_i9GU4mkxxQ.jpg'),
        '0123456789.jpg': ('0123456789', '0123456789.jpg')}, 'mapillary_vistas', None),
    'leading_zeros': ('val', {'0000.jpg': ('0000', '0000.jpg'), '0001.jpg': ('0001', '0001.jpg')},
                      'shapes', None),
    'numbered_anew': ('val', {'1.jpg': (3, '1.jpg'), '2.jpg': (1, '2.jpg'), '3.jpg': (2, '3.jpg')},
                      'shapes', None),
    'cameras': ('val', {'cam0/000001.jpg': (1, 'cam0/000001.jpg'),
                        'cam1/000001.jpg': (2, 'cam1/000001.jpg'),
                        'cam1/000002.jpg': (3, 'cam1/000002.jpg')}, 'shapes', None),
    'named_by_windows': ('val', {'cam0/1.JPG': ('a', 'cam0\\1.jpg'),
                                 'cam1/1.JPG': ('b', 'cam1\\1.jpg')}, 'shapes', None),
}


def _write(folder, images, ids, info):
  """Writes a panoptic JSON: each image is of one segment, whose class its name tells."""
  folder.mkdir()
  content = {'images': [], 'annotations': [], 'categories': [
      {'id': c.category_id, 'name': c.name, 'isthing': int(c.isthing)} for c in info.categories]}
  for index, (name, (image_id, file_name)) in enumerate(zip(sorted(images), ids)):
    category = info.categories[-1 - index]
    png = f'{os.path.splitext(name)[0]}.png'
    (folder / png).parent.mkdir(parents=True, exist_ok=True)
    coco_panoptic.write_panoptic_png(folder / png, np.full((3, 4), 1))
    content['images'].append({'id': image_id, 'file_name': file_name, 'height': 3, 'width': 4})
    content['annotations'].append({'image_id': image_id, 'file_name': png, 'segments_info': [
        {'id': 1, 'category_id': category.category_id, 'score': 0.5}]})
  return content


@pytest.mark.parametrize('with_ground_truth', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_predictions_are_paired_with_their_images(tmp_path, layout, with_ground_truth):
  folder, images, dataset, benchmark = LAYOUTS[layout]
  info = catalog.built_in(dataset)
  names = sorted(images)
  for name in names:
    path = tmp_path / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    (path.parent / f'._{path.name}').touch()
  content = _write(tmp_path / 'gt', names, [images[name] for name in names], info)
  truth = tmp_path / 'gt.json'
  coco_panoptic.write_json(truth, content)

  out = str(tmp_path / 'out')
  found = predicted_images.name(predicted_images.find([str(tmp_path / folder)], out), out,
                                str(truth) if with_ground_truth else None)
  assert [image.file_name for image in found] == names
  content = _write(tmp_path / 'out', names,
                   [(image.image_id, image.file_name) for image in found], info)
  coco_panoptic.write_json(tmp_path / 'out' / 'predictions.json', content)

  predictions = tmp_path / 'out' / 'predictions.json'
  score = panoptic_files.panoptic_score(truth, predictions)
  assert score.metric.result()['All'] == {'pq': 1.0, 'sq': 1.0, 'rq': 1.0, 'n': len(names)}
  if with_ground_truth or layout in ('coco', 'cityscapes', 'ade20k'):
    assert score.warnings == ()
  if benchmark:
    for listed in (truth, tmp_path / folder, None):
      written = submission.write(tmp_path / 'a.zip', benchmark, predictions, images=listed)
      assert (written.images, written.left_out) == (len(names), 0)
      with zipfile.ZipFile(tmp_path / 'a.zip') as archive:
        written_names = ' '.join(archive.namelist())
      for image_id, _ in images.values():
        assert f'{image_id}.png' in written_names
