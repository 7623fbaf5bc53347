"""Files for test servers: names, ids and pixels inside the zip files."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data import catalog
from deeplab_tf.formats import coco_panoptic
from deeplab_tf.scoring import submission
from deeplab_tf.user_errors import UserError

# Segment ids 1 (ground), 2 and 3 (things); 0 is void.
IDS = np.array([[0, 1, 1, 2], [0, 1, 3, 2]], np.int32)
CATEGORIES = {'coco_panoptic': (200, 1, 90), 'cityscapes_panoptic': (7, 24, 33),
              'ade20k_panoptic': (0, 12, 149)}


def _predictions(folder, dataset, image_ids, **changes):
  """Writes predictions as predict.py does, and returns their JSON."""
  annotations = []
  for number, image_id in enumerate(image_ids):
    coco_panoptic.write_panoptic_png(folder / f'image_{number}.png', IDS)
    segments = [{'id': 1 + index, 'category_id': category, 'score': 0.25 * (1 + index)}
                for index, category in enumerate(CATEGORIES[dataset])]
    annotations.append({'image_id': image_id, 'file_name': f'image_{number}.png',
                        'segments_info': segments})
  path = folder / 'predictions.json'
  path.write_text(json.dumps({'annotations': annotations, **changes}))
  return path


def _zip(tmp_path, benchmark, image_ids, **arguments):
  dataset = submission.BENCHMARKS[benchmark].dataset
  path = _predictions(tmp_path, dataset, image_ids)
  written = submission.write(tmp_path / 'out.zip', benchmark, path, **arguments)
  with zipfile.ZipFile(tmp_path / 'out.zip') as archive:
    return written, {name: archive.read(name) for name in archive.namelist()}


def _pixels(data):
  return np.asarray(Image.open(io.BytesIO(data)))


def test_cocos_zip_is_one_json_and_a_folder_of_the_same_name(tmp_path):
  _, files = _zip(tmp_path, 'coco_panoptic', [439180], method='mine')
  stem = 'panoptic_test-dev2017_mine_results'
  assert set(files) == {f'{stem}.json', f'{stem}/000000439180.png'}
  (annotation,) = json.loads(files[f'{stem}.json'])['annotations']
  assert (annotation['image_id'], annotation['file_name']) == (439180, '000000439180.png')
  assert [s['category_id'] for s in annotation['segments_info']] == [200, 1, 90]
  (tmp_path / 'back.png').write_bytes(files[f'{stem}/000000439180.png'])
  np.testing.assert_array_equal(coco_panoptic.read_panoptic_png(tmp_path / 'back.png'), IDS)


def test_what_was_written_scores_as_the_predictions_do(tmp_path):
  from deeplab_tf.scoring import panoptic_files
  with zipfile.ZipFile(tmp_path / 'out.zip', 'w'):
    pass  # An older file is replaced.
  predictions = _predictions(tmp_path, 'coco_panoptic', [7])
  info = catalog.built_in('coco_panoptic')
  content = json.loads(predictions.read_text())
  truth = {'images': [{'id': 7}], 'annotations': content['annotations'], 'categories': [
      {'id': c.category_id, 'name': c.name, 'isthing': int(c.isthing)} for c in info.categories]}
  (tmp_path / 'gt.json').write_text(json.dumps(truth))
  submission.write(tmp_path / 'out.zip', 'coco_panoptic', predictions)
  with zipfile.ZipFile(tmp_path / 'out.zip') as archive:
    archive.extractall(tmp_path / 'unpacked')
  score = panoptic_files.panoptic_score(
      tmp_path / 'gt.json', tmp_path / 'unpacked/panoptic_test-dev2017_deeplab_tf_results.json',
      tmp_path)
  assert score.metric.result()['All'] == {'pq': 1.0, 'sq': 1.0, 'rq': 1.0, 'n': 3}


def test_cityscapes_ids_are_city_sequence_and_frame(tmp_path):
  _, files = _zip(tmp_path, 'cityscapes_panoptic', ['aland_000000_000019_leftImg8bit'])
  (annotation,) = json.loads(files['cityscapes_panoptic_test.json'])['annotations']
  assert annotation['image_id'] == 'aland_000000_000019'
  assert 'cityscapes_panoptic_test/aland_000000_000019.png' in files


@pytest.mark.parametrize('benchmark, expected', [
    ('cityscapes_semantic', [[0, 7, 7, 24], [0, 7, 33, 24]]),
    ('ade20k_semantic', [[0, 1, 1, 13], [0, 1, 150, 13]]),
])
def test_semantic_pngs_hold_the_servers_class_ids(tmp_path, benchmark, expected):
  _, files = _zip(tmp_path, benchmark, ['a_1_2'])
  assert list(files) == ['a_1_2.png']
  np.testing.assert_array_equal(_pixels(files['a_1_2.png']), expected)


def test_cityscapes_instances_are_masks_with_class_and_score(tmp_path):
  _, files = _zip(tmp_path, 'cityscapes_instance', ['a_1_2_leftImg8bit'])
  lines = [line.split() for line in files['a_1_2.txt'].decode().splitlines()]
  assert [(category, float(score)) for _, category, score in lines] == [('24', 0.5), ('33', 0.75)]
  for (name, *_), segment_id in zip(lines, (2, 3)):
    np.testing.assert_array_equal(_pixels(files[name]) > 0, segment_id == IDS)
  assert len(files) == 3


def test_only_the_listed_images_are_written(tmp_path):
  (tmp_path / 'list.json').write_text(json.dumps({'images': [{'id': 3}, {'id': 1}]}))
  written, files = _zip(tmp_path, 'coco_panoptic', [1, 2, 3], images=tmp_path / 'list.json')
  assert (written.images, written.left_out) == (2, 1)
  assert sorted(name[-16:] for name in files if name.endswith('png')) == [
      '000000000001.png', '000000000003.png']
  assert '20288' in written.warnings[0]


def test_images_may_be_listed_by_their_folder(tmp_path):
  (tmp_path / 'test' / 'aland').mkdir(parents=True)
  (tmp_path / 'test' / 'aland' / 'aland_0_1_leftImg8bit.png').touch()
  written, _ = _zip(tmp_path, 'cityscapes_semantic', ['aland_0_1', 'other'],
                    images=tmp_path / 'test')
  assert (written.images, written.left_out) == (1, 1)


@pytest.mark.parametrize('arguments, words', [
    ({'images': 'list.json'}, ('2 of the 3 images', 'list.json', '8')),
    ({'method': 'a b'}, ('"a b"', 'letters')),
])
def test_an_incomplete_submission_is_refused_and_nothing_is_written(tmp_path, arguments, words):
  (tmp_path / 'list.json').write_text(json.dumps({'images': [{'id': i} for i in (1, 8, 9)]}))
  if 'images' in arguments:
    arguments = {'images': tmp_path / arguments['images']}
  with pytest.raises(ValueError) as error:
    _zip(tmp_path, 'coco_panoptic', [1], **arguments)
  assert all(word in str(error.value) for word in words)
  assert not list(tmp_path.glob('out.zip*'))


def test_a_prediction_of_another_size_is_refused(tmp_path):
  (tmp_path / 'list.json').write_text(json.dumps({'images': [{'id': 1, 'height': 2, 'width': 5}]}))
  with pytest.raises(ValueError, match=r'image_0.png: is 2 x 4 pixels .* its image 2 x 5'):
    _zip(tmp_path, 'coco_panoptic', [1], images=tmp_path / 'list.json')
  assert not list(tmp_path.glob('out.zip*'))


def test_a_category_of_another_data_set_is_refused(tmp_path):
  path = _predictions(tmp_path, 'coco_panoptic', [1])
  with pytest.raises(ValueError, match='image .1.: segment 1 is of category 200, which cityscapes'):
    submission.write(tmp_path / 'out.zip', 'cityscapes_semantic', path)


def test_a_png_that_contradicts_the_json_leaves_nothing_behind(tmp_path):
  path = _predictions(tmp_path, 'coco_panoptic', [1, 2])
  coco_panoptic.write_panoptic_png(tmp_path / 'image_1.png', IDS + 1)
  with pytest.raises(ValueError, match='image_1.png: segment 4 is in the PNG, but not in the JSON'):
    submission.write(tmp_path / 'out.zip', 'coco_panoptic', path)
  assert not list(tmp_path.glob('out.zip*'))


def test_instances_without_a_score_are_refused(tmp_path):
  path = _predictions(tmp_path, 'cityscapes_panoptic', ['a'])
  content = json.loads(path.read_text())
  del content['annotations'][0]['segments_info'][1]['score']
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match='segment 2 has no "score"'):
    submission.write(tmp_path / 'out.zip', 'cityscapes_instance', path)


def test_names_tell_the_images_where_ids_do_not(tmp_path):
  # Numbered 1, 2 in the predictions; and, of a folder, by the paths of the images.
  (tmp_path / 'test' / 'aland').mkdir(parents=True)
  for name in ('aland_0_1_leftImg8bit.png', 'aland_0_2_leftImg8bit.png', '._aland_0_2.png'):
    (tmp_path / 'test' / 'aland' / name).touch()
  images = [{'id': index, 'file_name': f'aland_0_{3 - index}_leftImg8bit.png'}
            for index in (1, 2)]
  path = _predictions(tmp_path, 'cityscapes_panoptic', [1, 2], images=images)
  written = submission.write(tmp_path / 'out.zip', 'cityscapes_panoptic', path,
                             images=tmp_path / 'test')
  assert written.images == 2 and any('paired by file name' in line for line in written.warnings)
  with zipfile.ZipFile(tmp_path / 'out.zip') as archive:
    content = json.loads(archive.read('cityscapes_panoptic_test.json'))
  assert [entry['image_id'] for entry in content['annotations']] == ['aland_0_1', 'aland_0_2']


def test_ids_that_are_whole_names_are_taken_too(tmp_path):
  _, files = _zip(tmp_path, 'coco_panoptic', ['test2017/000000000007.jpg', '000000000008'])
  content = json.loads(files['panoptic_test-dev2017_deeplab_tf_results.json'])
  assert [entry['image_id'] for entry in content['annotations']] == [7, 8]
  written, _ = _zip(tmp_path, 'coco_panoptic', ['photo'])
  assert "the first is 'photo'" in written.warnings[1]
  _, files = _zip(tmp_path, 'ade20k_semantic', ['test/ADE_test_00000001.jpg'])
  assert list(files) == ['ADE_test_00000001.png']


def test_two_predictions_of_one_image_are_named(tmp_path):
  with pytest.raises(ValueError, match="one image id of the benchmark, 7: image_0.png and image_1"):
    _zip(tmp_path, 'coco_panoptic', [7, '007'])


def test_categories_in_another_numbering_are_refused(tmp_path):
  # The train ids of Cityscapes: 7 is "traffic sign" among them, and "road" for the server.
  path = _predictions(tmp_path, 'cityscapes_panoptic', ['a_0_1'], categories=[
      {'id': 7, 'name': 'traffic sign', 'isthing': 0}])
  with pytest.raises(ValueError, match='category 7 is "traffic sign" here and "road" there'):
    submission.write(tmp_path / 'out.zip', 'cityscapes_panoptic', path)
  assert not (tmp_path / 'out.zip').exists()


@pytest.mark.parametrize('images, words', [
    ('[]', 'no list "images"'), ('{"images": []}', 'lists no images'),
    ('{"images": [{"id": [1]}]}', 'has [1] as "id"'), ('{"images": [{"id": 1}, {"id": "01"}]}',
                                                       'two images have one image id'),
    ('{"images": [{"id": 1, "height": "4", "width": 2}]}', 'has \'4\' as "height"'),
    ('{', 'not valid JSON')])
def test_a_bad_list_of_images_is_one_line(tmp_path, images, words):
  (tmp_path / 'list.json').write_text(images)
  with pytest.raises(UserError) as error:
    _zip(tmp_path, 'coco_panoptic', [1], images=tmp_path / 'list.json')
  assert words in str(error.value) and 'list.json' in str(error.value)
