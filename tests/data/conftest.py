"""Small data sets and configs for the tests of the input pipeline."""

import json

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

from deeplab_tf.protos import config_pb2


@pytest.fixture(name='experiment')
def fixture_experiment():
  """From two DatasetOptions textprotos to ExperimentOptions."""

  def make(train='', evaluation=''):
    return text_format.Parse(
        f'train_dataset_options {{ {train} }} eval_dataset_options {{ {evaluation} }}',
        config_pb2.ExperimentOptions())

  return make


class PanopticFolder:
  """Two images, 20x30 and 16x24, in the COCO panoptic format: cats, grass, a crowd of cats."""

  def __init__(self, root):
    self.root = root
    self.json_file = root / 'annotations' / 'panoptic_val.json'
    self.label_dir = root / 'annotations' / 'panoptic_val'
    self.image_dir = root / 'val'
    for folder in (self.label_dir, self.image_dir):
      folder.mkdir(parents=True)
    self.categories = [
        {'id': 7, 'name': 'grass', 'isthing': 0}, {'id': 3, 'name': 'cat', 'isthing': 1}]
    self.ids, images, annotations = [], [], []
    for number, (height, width) in enumerate([(20, 30), (16, 24)]):
      name = f'photo{number}'
      pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)
      Image.fromarray(pixels).save(self.image_dir / f'{name}.png')
      ids = np.full((height, width), 70000)
      ids[:3] = 0
      ids[4:9, 2:8], ids[4:9, 10:15], ids[10:15, 3:9] = 12, 300, 5
      self.ids.append(ids)
      self.save_ids(self.label_dir / f'{name}.png', ids)
      segments = [{'id': i, 'category_id': c, 'iscrowd': crowd, 'area': int((ids == i).sum())}
                  for i, c, crowd in ((12, 3, 0), (70000, 7, 0), (300, 3, 0), (5, 3, 1))]
      images.append({'id': number, 'file_name': f'{name}.png', 'height': height, 'width': width})
      annotations.append(
          {'image_id': number, 'file_name': f'{name}.png', 'segments_info': segments})
    self.content = {
        'images': images, 'annotations': annotations, 'categories': self.categories}
    self.save()

  def save(self):
    self.json_file.write_text(json.dumps(self.content))

  def save_ids(self, path, ids):
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(rgb).save(path)

  def segment(self, image=0, index=0):
    return self.content['annotations'][image]['segments_info'][index]

  def options(self, extra=''):
    return (f'dataset: "coco_format" crop_size: [21, 33] batch_size: 2 max_thing_id: 8 {extra} '
            f'coco_format {{ annotation_file: "{self.json_file}" image_dir: "{self.image_dir}" '
            f'annotation_dir: "{self.label_dir}" }}')


@pytest.fixture(name='panoptic_folder')
def fixture_panoptic_folder(tmp_path):
  return PanopticFolder(tmp_path / 'raw')


def run_lengths(mask):
  """The run lengths of a mask, column by column, as a list that begins with the zeros."""
  flat = np.asarray(mask).T.ravel().astype(int)
  ends = np.append(np.flatnonzero(np.diff(flat)) + 1, flat.size)
  runs = np.diff(np.append(0, ends)).tolist()
  return [0, *runs] if flat[0] else runs


class InstanceFolder:
  """Three images in COCO's instance format.

  photo0, 20x30: a cat of two polygons, a dog as compressed run lengths that overlaps it, a crowd of
  cats as plain run lengths. photo1, 16x24: a dog as a polygon, without area and iscrowd. photo2,
  12x10: nothing.
  """
  SIZES = {'photo0': (20, 30), 'photo1': (16, 24), 'photo2': (12, 10)}

  def __init__(self, root):
    from pycocotools import mask
    self.root = root
    self.json_file = root / 'annotations' / 'instances_val.json'
    self.image_dir = root / 'val'
    for folder in (self.json_file.parent, self.image_dir):
      folder.mkdir(parents=True)
    for number, (name, (height, width)) in enumerate(self.SIZES.items()):
      pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)
      Image.fromarray(pixels).save(self.image_dir / f'{name}.png')
    dog, crowd = np.zeros((2, *self.SIZES['photo0']), np.uint8)
    dog[5:11, 4:16] = 1
    crowd[14:, 20:] = 1
    packed = mask.encode(np.asfortranarray(dog))
    plain = {'size': [20, 30], 'counts': run_lengths(crowd)}
    self.content = {
        'images': [{'id': 10 * number + 4, 'file_name': f'{name}.png', 'height': size[0],
                    'width': size[1]} for number, (name, size) in enumerate(self.SIZES.items())],
        'annotations': [
            {'id': 11, 'image_id': 4, 'category_id': 7, 'area': 60.5, 'iscrowd': 0,
             'bbox': [2, 3, 16.2, 9],
             'segmentation': [[2, 3, 9, 3, 9, 8, 2, 8], [12.5, 3.5, 18.2, 3.5, 15, 12]]},
            {'id': 40, 'image_id': 4, 'category_id': 3, 'area': 72, 'iscrowd': 0,
             'segmentation': {'size': [20, 30], 'counts': packed['counts'].decode()}},
            {'id': 5, 'image_id': 4, 'category_id': 7, 'area': 60, 'iscrowd': 1,
             'segmentation': plain},
            {'id': 6, 'image_id': 14, 'category_id': 3,
             'segmentation': [[3.2, 2.7, 12.1, 2.7, 12.1, 13, 3.2, 13]]}],
        'categories': [{'id': 7, 'name': 'cat', 'supercategory': 'animal'},
                       {'id': 3, 'name': 'dog', 'supercategory': 'animal'},
                       {'id': 90, 'name': 'cow', 'supercategory': 'animal'}]}
    self.save()

  def save(self):
    self.json_file.write_text(json.dumps(self.content))

  def options(self, extra=''):
    return (f'dataset: "coco_instance_format" crop_size: [33, 33] batch_size: 2 {extra} '
            f'coco_instance_format {{ annotation_file: "{self.json_file}" '
            f'image_dir: "{self.image_dir}" }}')


@pytest.fixture(name='instance_folder')
def fixture_instance_folder(tmp_path):
  return InstanceFolder(tmp_path / 'raw')
