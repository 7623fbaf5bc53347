"""Files for test servers from the predictions of the tasks instance and semantic."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_lib

from deeplab_tf.data import catalog
from deeplab_tf.scoring import submission
from deeplab_tf.user_errors import UserError

SIZE = (6, 8)


def _mask(number):
  pixels = np.zeros(SIZE, bool)
  pixels[number:number + 3, 2:5 + number] = True
  return pixels


def _runs(pixels):
  runs = mask_lib.encode(np.asfortranarray(pixels, np.uint8))
  return {'size': runs['size'], 'counts': runs['counts'].decode()}


def _result(image_id, category_id, number, **changes):
  return {'image_id': image_id, 'category_id': category_id, 'segmentation': _runs(_mask(number)),
          'bbox': [2, number, 3 + number, 3], 'score': 0.12345678 * (1 + number), **changes}


def _folder(tmp_path, results):
  """The folder that evaluation/predict.py writes for the task instance."""
  folder = tmp_path / 'predictions'
  folder.mkdir()
  (folder / 'predictions.json').write_text(json.dumps(results))
  Image.new('RGB', SIZE[::-1]).save(folder / 'a_overlay.png')
  return folder


def _zip(tmp_path, benchmark, folder, **arguments):
  written = submission.write(tmp_path / 'out.zip', benchmark, folder, **arguments)
  with zipfile.ZipFile(tmp_path / 'out.zip') as archive:
    return written, {name: archive.read(name) for name in archive.namelist()}


def _images(tmp_path, *images):
  (tmp_path / 'list.json').write_text(json.dumps({'images': [
      {'id': image_id, 'height': SIZE[0], 'width': SIZE[1]} for image_id in images]}))
  return tmp_path / 'list.json'


def _pixels(data):
  return np.asarray(Image.open(io.BytesIO(data)))


# --- Instances --------------------------------------------------------------------------------


def test_cocos_results_are_one_json_with_masks_as_they_were(tmp_path):
  folder = _folder(tmp_path, [_result(7, 1, 0), _result(3, 90, 1), _result(9, 18, 2)])
  written, files = _zip(tmp_path, 'coco_instance', folder, method='mine',
                        images=_images(tmp_path, 3, 7))
  assert (written.images, written.left_out) == (2, 1)
  assert list(files) == ['segm_test-dev2017_mine_results.json']
  results = json.loads(files['segm_test-dev2017_mine_results.json'])
  assert [(each['image_id'], each['category_id'], each['score']) for each in results] == [
      (3, 90, 0.246914), (7, 1, 0.123457)]
  for each, number in zip(results, (1, 0)):
    assert set(each) == {'image_id', 'category_id', 'segmentation', 'score'}
    np.testing.assert_array_equal(mask_lib.decode(each['segmentation']), _mask(number))


def test_cocos_results_score_as_before(tmp_path):
  from deeplab_tf.scoring import instance_files
  results = [_result(1, 1, 0), _result(1, 1, 1), _result(2, 3, 2)]
  _, files = _zip(tmp_path, 'coco_instance', _folder(tmp_path, results))
  (tmp_path / 'back.json').write_bytes(files['segm_test-dev2017_deeplab_tf_results.json'])
  truth = {'images': [{'id': i, 'height': SIZE[0], 'width': SIZE[1]} for i in (1, 2)],
           'categories': [{'id': 1}, {'id': 3}],
           'annotations': [{'id': i, 'image_id': i, 'category_id': category, 'area': 9,
                            'segmentation': _runs(_mask(0))} for i, category in ((1, 1), (2, 3))]}
  (tmp_path / 'gt.json').write_text(json.dumps(truth))
  scores = [instance_files.instance_score(tmp_path / 'gt.json', path).figures
            for path in (tmp_path / 'predictions', tmp_path / 'back.json')]
  assert scores[0] == scores[1] and 0 < scores[0]['AP'] < 1


def test_polygons_and_plain_run_lengths_become_compressed_ones(tmp_path):
  plain = {'size': list(SIZE), 'counts': [6, 6, 36]}
  results = [_result(1, 1, 0, segmentation=plain),
             _result(1, 1, 0, segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]])]
  _, files = _zip(tmp_path, 'coco_instance', _folder(tmp_path, results),
                  images=_images(tmp_path, 1))
  first, second = json.loads(files['segm_test-dev2017_deeplab_tf_results.json'])
  assert mask_lib.area(first['segmentation']) == 6
  assert mask_lib.area(second['segmentation']) == 16
  assert second['segmentation']['size'] == list(SIZE)


def test_cityscapes_masks_are_read_back(tmp_path):
  name = 'aland_000000_000001'
  results = [_result(f'{name}_leftImg8bit', 24, 0), _result(f'{name}_leftImg8bit', 33, 1)]
  _, files = _zip(tmp_path, 'cityscapes_instance', _folder(tmp_path, results))
  lines = [line.split() for line in files[f'{name}.txt'].decode().splitlines()]
  assert [(category, score) for _, category, score in lines] == [('24', '0.123457'),
                                                                 ('33', '0.246914')]
  for number, (mask, *_) in enumerate(lines):
    pixels = _pixels(files[mask])
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels > 0, _mask(number))
  assert len(files) == 3


def test_an_image_without_instances_has_an_empty_text_file(tmp_path):
  folder = _folder(tmp_path, [_result('a_0_1', 24, 0)])
  written, files = _zip(tmp_path, 'cityscapes_instance', folder,
                        images=_images(tmp_path, 'a_0_1', 'a_0_2'))
  assert files['a_0_2.txt'] == b'' and files['a_0_1.txt']
  assert any("1 of the 2 images" in line and "'a_0_2'" in line for line in written.warnings)


@pytest.mark.parametrize('results, words', [
    ([_result(1, 92, 0)], 'result 0 is of category 92, which coco_instance does not know: its 80'),
    ([_result(1, 1, 0), _result(1, 1, 0, score='high')], "result 1 has 'high' as \"score\""),
    ([_result(1, 1, 0, segmentation={'size': [4, 4], 'counts': [16]})],
     'result 0: the mask: is 4 x 4 pixels (height x width), and its image 6 x 8'),
    ([_result(1, 1, 0, segmentation={'size': list(SIZE), 'counts': [3]})],
     'result 0: the mask has run lengths that add up to 3'),
    ([{'image_id': 1, 'category_id': 1, 'score': 1}], 'result 0 lacks segmentation'),
    ([_result(5, 1, 0)], '1 of the 1 images of'),
    ([], 'not a list of results')])
def test_bad_results_are_one_line_and_nothing_is_written(tmp_path, results, words):
  folder = _folder(tmp_path, results)
  with pytest.raises(UserError) as error:
    _zip(tmp_path, 'coco_instance', folder, images=_images(tmp_path, 1))
  assert words in str(error.value) and '\n' not in str(error.value)
  assert not list(tmp_path.glob('out.zip*'))


def test_masks_without_a_size_need_one_from_the_images(tmp_path):
  folder = _folder(tmp_path, [_result(1, 1, 0, segmentation=[[0, 0, 4, 0, 4, 4]])])
  with pytest.raises(UserError, match='result 0: the mask has no size'):
    _zip(tmp_path, 'coco_instance', folder)


def test_masks_of_one_image_must_have_one_size(tmp_path):
  other = {'size': [4, 4], 'counts': [0, 16]}
  folder = _folder(tmp_path, [_result(1, 1, 0), _result(1, 1, 0, segmentation=other)])
  with pytest.raises(UserError, match=r'image 1: its masks have different sizes .*\(4, 4\) and'):
    _zip(tmp_path, 'coco_instance', folder)


def test_predictions_of_another_task_are_refused(tmp_path):
  folder = _folder(tmp_path, [_result(1, 1, 0)])
  with pytest.raises(UserError, match='a JSON of instance results, and coco_panoptic takes .*'
                     'predict with --task=panoptic'):
    _zip(tmp_path, 'coco_panoptic', folder)
  (folder / 'predictions.json').write_text('{"annotations": []}')
  with pytest.raises(UserError, match='predict with --task=instance'):
    _zip(tmp_path, 'coco_instance', folder)


# --- Semantic ---------------------------------------------------------------------------------


def _class_maps(tmp_path, classes, *names):
  folder = tmp_path / 'predictions'
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([classes, classes], np.uint8)).save(folder / f'{name}.png')
    Image.new('RGB', (9, 9)).save(folder / f'{name}_overlay.png')
  return folder


@pytest.mark.parametrize('benchmark, classes, expected', [
    ('cityscapes_semantic', [0, 11, 18, 255], [7, 24, 33, 0]),
    ('ade20k_semantic', [1, 2, 150, 0], [1, 2, 150, 0]),
])
def test_class_ids_become_those_of_the_server(tmp_path, benchmark, classes, expected):
  folder = _class_maps(tmp_path, classes, 'city/a_0_1_leftImg8bit')
  written, files = _zip(tmp_path, benchmark, folder)
  (name,) = files
  assert name == ('a_0_1.png' if 'city' in benchmark else 'a_0_1_leftImg8bit.png')
  np.testing.assert_array_equal(_pixels(files[name]), [expected, expected])
  assert written.images == 1


def test_every_class_has_the_id_of_its_category(tmp_path):
  info = catalog.built_in('cityscapes_panoptic')
  folder = _class_maps(tmp_path, list(info.class_ids), 'a_0_1')
  _, files = _zip(tmp_path, 'cityscapes_semantic', folder)
  assert _pixels(files['a_0_1.png'])[0].tolist() == [c.category_id for c in info.categories]


def test_results_of_another_task_beside_the_maps_are_ignored(tmp_path):
  folder = _class_maps(tmp_path, [3], 'a_0_1')
  (folder / 'predictions.json').write_text(json.dumps([_result(1, 1, 0)]))
  _, files = _zip(tmp_path, 'cityscapes_semantic', folder)
  assert list(files) == ['a_0_1.png']


@pytest.mark.parametrize('classes, images, words', [
    ([33], ['a_0_1'], 'a_0_1.png: has the value 33, which is no class id of cityscapes_panoptic'),
    ([3] * 8, ['a_0_1'], 'a_0_1.png: is 2 x 8 pixels (height x width), and its image 6 x 8'),
    ([3], ['a_0_1', 'a_0_2'], "1 of the 2 images of"),
])
def test_bad_maps_are_one_line_and_nothing_is_written(tmp_path, classes, images, words):
  folder = _class_maps(tmp_path, classes, 'a_0_1')
  listed = _images(tmp_path, *images) if len(classes) != 1 or len(images) > 1 else None
  with pytest.raises(UserError) as error:
    _zip(tmp_path, 'cityscapes_semantic', folder, images=listed)
  assert words in str(error.value)
  assert not list(tmp_path.glob('out.zip*'))


@pytest.mark.parametrize('key', ['class_id', 'category_id'])
def test_classes_that_are_listed_are_compared(tmp_path, key):
  folder = _class_maps(tmp_path, [7], 'a_0_1')
  categories = [{'id': getattr(c, key), 'name': c.name}
                for c in catalog.built_in('cityscapes_panoptic').categories]
  (folder / 'predictions.json').write_text(json.dumps({'images': [], 'categories': categories}))
  if key == 'class_id':
    _, files = _zip(tmp_path, 'cityscapes_semantic', folder)
    assert _pixels(files['a_0_1.png'])[0, 0] == 20
  else:
    with pytest.raises(UserError, match='its category ids are not those of the classes of city'):
      _zip(tmp_path, 'cityscapes_semantic', folder)


def test_other_maps_are_left_out_and_an_empty_folder_is_named(tmp_path):
  folder = _class_maps(tmp_path, [3] * 8, 'a_0_1', 'b_0_1')
  for name in ('a_0_1', 'b_0_1'):
    Image.new('L', SIZE[::-1], 4).save(folder / f'{name}.png')
  written, files = _zip(tmp_path, 'cityscapes_semantic', folder, images=_images(tmp_path, 'b_0_1'))
  assert list(files) == ['b_0_1.png'] and written.left_out == 1
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match='holds neither predictions.json nor PNGs of class ids'):
    _zip(tmp_path, 'ade20k_semantic', tmp_path / 'empty')
