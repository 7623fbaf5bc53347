"""The classes of data sets, and what is refused."""

import json

import pytest
import shared

from deeplab_tf import config as config_lib
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog

# name: classes, things, num_classes, ignore label, divisor
TABLE = {
    'coco_panoptic': (133, 80, 134, 0, 256),
    'cityscapes_panoptic': (19, 8, 19, 255, 1000),
    'ade20k_panoptic': (150, 100, 151, 0, 1000),
    'mapillary_vistas': (65, 37, 65, 65, 1000),
    'shapes': (9, 6, 10, 0, 256),
    'coco_instances': (80, 80, 134, 0, 256),
    'cityscapes_instances': (8, 8, 19, 255, 1000),
    'ade20k_instances': (100, 100, 151, 0, 1000),
}


@pytest.mark.parametrize('name', TABLE)
def test_built_in_data_sets_have_their_numbers(name):
  info = catalog.built_in(name)
  assert (len(info.categories), len(info.thing_class_ids), info.num_classes, info.ignore_label,
          info.label_divisor) == TABLE[name]
  assert info.void_label == info.ignore_label * info.label_divisor
  assert list(info.class_ids) == sorted(set(info.class_ids))
  assert set(info.class_ids) == set(info.thing_class_ids) | set(info.stuff_class_ids)
  assert len({c.color for c in info.categories}) == len(info.categories)
  assert len(info.by_category_id) == len(info.categories)
  assert info.ignore_label not in info.class_ids
  assert [info.class_index[c] for c in info.class_ids] == list(range(len(info.class_ids)))


def test_things_of_coco_and_cityscapes_are_those_of_deeplab2():
  assert catalog.built_in('coco_panoptic').thing_class_ids == tuple(range(1, 81))
  assert catalog.built_in('cityscapes_panoptic').thing_class_ids == tuple(range(11, 19))


@pytest.mark.parametrize('name', TABLE)
def test_json_round_trip(name):
  info = catalog.built_in(name)
  assert DatasetInfo.from_json(info.to_json()) == info


def test_unknown_data_set_names_the_nearest(experiment):
  options = experiment('dataset: "coco_panoptics"').train_dataset_options
  with pytest.raises(config_lib.ConfigError, match='Did you mean "coco_panoptic"'):
    catalog.from_options(options)


def test_coco_format_numbers_classes_by_category_id(panoptic_folder, experiment):
  info = catalog.from_config(experiment(panoptic_folder.options()))
  assert [(c.class_id, c.category_id, c.name, c.isthing) for c in info.categories] == [
      (1, 3, 'cat', True), (2, 7, 'grass', False)]
  assert (info.num_classes, info.ignore_label, info.label_divisor) == (3, 0, 256)
  assert len({c.color for c in info.categories}) == 2


def test_coco_format_keeps_colors_and_replaces_repeated_ones(panoptic_folder):
  for category in panoptic_folder.categories:
    category['color'] = [1, 2, 3]
  panoptic_folder.save()
  colors = [c.color for c in catalog.from_annotation_file(panoptic_folder.json_file).categories]
  assert colors[0] == (1, 2, 3) and colors[1] != (1, 2, 3)


@pytest.mark.parity
def test_coco_format_of_coco_is_coco():
  path = shared.path('data', 'coco_sample', 'annotations', 'panoptic_val2017.json')
  info, coco = catalog.from_annotation_file(path), catalog.built_in('coco_panoptic')
  assert [c[:4] for c in info.categories] == [c[:4] for c in coco.categories]
  assert (info.num_classes, info.ignore_label) == (coco.num_classes, coco.ignore_label)


@pytest.mark.parametrize('change, message', [
    ({'id': 7}, 'category id 7 occurs twice'),
    ({'id': 'x'}, 'not a whole number'),
    ({'isthing': 2}, 'isthing of category 3 is 2'),
    ({'isthing': None}, 'isthing of category 3 is None'),
    ({'color': [1, 2]}, 'color of category 3'),
])
def test_wrong_categories_are_named(panoptic_folder, change, message):
  panoptic_folder.categories[1].update(change)
  panoptic_folder.save()
  with pytest.raises(config_lib.ConfigError, match=message) as error:
    catalog.from_annotation_file(panoptic_folder.json_file)
  assert str(panoptic_folder.json_file) in str(error.value) and '\n' not in str(error.value)


def test_detection_json_is_recognised(tmp_path):
  path = tmp_path / 'instances.json'
  path.write_text(json.dumps({'categories': [{'id': 1, 'name': 'cat'}]}))
  with pytest.raises(config_lib.ConfigError, match='A panoptic JSON is expected'):
    catalog.from_annotation_file(path)


def test_missing_annotation_file_and_placeholder_are_one_line(experiment, tmp_path):
  text = 'dataset: "coco_format" coco_format { annotation_file: "%s" }'
  for path, message in ((tmp_path / 'no.json', 'no such file'), ('${JSON}', 'placeholder')):
    options = experiment(text % path).train_dataset_options
    with pytest.raises(config_lib.ConfigError, match=message):
      catalog.from_options(options)


def test_train_and_eval_must_have_the_same_classes(experiment):
  config = experiment('dataset: "shapes"', 'dataset: "coco_panoptic"')
  with pytest.raises(config_lib.ConfigError, match='different classes'):
    catalog.from_config(config)
  assert catalog.from_config(experiment('', 'dataset: "shapes"')).name == 'shapes'
