"""Data sets of instances that are partitions: the things of a panoptic data set."""


import numpy as np
import pytest
import shared
from data_sources import FAILURES, load, open_source
from PIL import Image

from deeplab_tf import cli
from deeplab_tf.data import build, catalog


@pytest.mark.parity
@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('name', ['cityscapes', 'ade20k'])
def test_instances_of_a_panoptic_data_set_are_its_things(name, split, tmp_path):
  root = shared.path('data', f'made_up_{name}')
  raw = f'raw_data {{ root: "{root}" split: "{split}" }}'
  panoptic = load(f'dataset: "{name}_panoptic" {raw}')
  info = catalog.built_in(f'{name}_instances')
  assert not info.masks_overlap and info.stuff_class_ids == ()
  found = load(f'dataset: "{name}_instances" {raw}')
  assert list(found) == list(panoptic) and found
  for key, example in panoptic.items():
    is_thing = np.isin(example.label // 1000, info.class_ids)
    assert is_thing.any() and not is_thing.all()
    np.testing.assert_array_equal(
        found[key].label, np.where(is_thing, example.label, info.void_label), err_msg=key)
    assert found[key].label.dtype == np.int32
  assert cli.run(build.main, [f'--dataset={name}_instances', f'--root={root}', f'--split={split}',
                              f'--output_dir={tmp_path}']) == 0
  records = load(f'dataset: "{name}_instances" file_pattern: "{tmp_path}/{split}-*"')
  for key, example in records.items():
    np.testing.assert_array_equal(example.label, found[key].label)


@pytest.mark.parity
def test_crowds_of_cityscapes_can_be_left_out(tmp_path):
  root = shared.path('data', 'made_up_cityscapes')
  text = ('dataset: "cityscapes_instances" raw_data { root: "%s" split: "val" '
          'treat_crowd_as_ignore: %s }')
  kept, ignored = [load(text % (root, value)) for value in ('false', 'true')]
  crowd = 0
  for key, example in kept.items():
    is_crowd = (example.label % 1000 == 0) & (example.label != 255000)
    crowd += is_crowd.sum()
    np.testing.assert_array_equal(ignored[key].label, np.where(is_crowd, 255000, example.label))
  assert crowd
  without = load('dataset: "cityscapes_instances" decode_groundtruth_label: false raw_data '
                 f'{{ root: "{root}" split: "test" }}')
  assert all((example.label == 255000).all() for example in without.values())


def test_ade20k_needs_its_instance_pngs_only(tmp_path):
  for folder, pixels in (('images', np.zeros((4, 5, 3))), ('annotations_instance', [
      [[0, 0, 9], [2, 1, 9], [2, 1, 9], [2, 2, 0], [1, 3, 0]]] * 4)):
    (tmp_path / folder / 'validation').mkdir(parents=True)
    Image.fromarray(np.array(pixels, np.uint8)).save(tmp_path / folder / 'validation' / 'a.png')
  raw = f'dataset: "ade20k_instances" raw_data {{ root: "{tmp_path}" split: "val" }}'
  things = catalog.built_in('ade20k_instances').class_ids
  assert len(things) == 100
  np.testing.assert_array_equal(load(raw)['a'].label, [
      [0, 1000 * things[1] + 1, 1000 * things[1] + 1, 1000 * things[1] + 2,
       1000 * things[0] + 1]] * 4)
  path = tmp_path / 'annotations_instance' / 'validation' / 'a.png'
  Image.fromarray(np.full((4, 5, 3), 101, np.uint8)).save(path)
  with pytest.raises(FAILURES, match=r'a.png: \(R, G\) = \(101, 101\) \(20 pixels\) is'):
    load(raw)
  with pytest.raises(ValueError, match='split "test": ade20k_instances has train and val'):
    open_source(raw.replace('"val"', '"test"'))
