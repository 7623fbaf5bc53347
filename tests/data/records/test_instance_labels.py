"""Records with instance masks: their features, and one line for each that is wrong."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.data import catalog, errors
from deeplab_tf.data.records import classes, files, instance_labels, tfrecord
from deeplab_tf.formats import instance_masks
from deeplab_tf.formats.instance_masks import InstanceMasks
from deeplab_tf.user_errors import DataError

INFO = catalog.built_in('coco_instances')
HEIGHT, WIDTH = 9, 7
MASKS = np.random.default_rng(3).random((HEIGHT, WIDTH, 10)) < 0.3


def masks(count=10, **changes):
  bits = np.packbits(MASKS[..., :count], axis=-1, bitorder='little')
  counts = tuple(run['counts'] for run in instance_masks.from_bits(bits, count))
  made = InstanceMasks((HEIGHT, WIDTH), counts, tuple(range(71, 71 + count)),
                       tuple(row % 3 == 1 for row in range(count)),
                       tuple(row + 0.25 for row in range(count)))
  return made._replace(**changes)


def example(label):
  stream = io.BytesIO()
  Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(stream, 'png')
  return tfrecord.SourceExample('photo', stream.getvalue(), 'png', HEIGHT, WIDTH, label)


def features(record):
  return tf.train.Example.FromString(record).features.feature


def parse(record, info=INFO, with_label=True):
  return tfrecord.parse(tf.constant(record), tf.constant('FILE'), info, with_label)


def line_of(record, info=INFO):
  # Errors of Python functions keep their type outside of tf.data.
  with pytest.raises((tf.errors.OpError, DataError)) as error:
    parse(record, info)
  line = errors.stated(error.value)
  assert line is not None and line.startswith('FILE: photo: ') and '\n' not in line
  return line


@pytest.mark.parametrize('count', [0, 1, 8, 9, 10])
def test_round_trip(count):
  record = tfrecord.serialize(example(masks(count)))
  label = parse(record).label
  np.testing.assert_array_equal(
      np.unpackbits(label.mask_bits, axis=-1, bitorder='little')[..., :count], MASKS[..., :count])
  assert label.mask_bits.shape == (HEIGHT, WIDTH, -(-count // 8))
  np.testing.assert_array_equal(label.class_ids, masks(count).class_ids)
  np.testing.assert_array_equal(label.is_crowd, masks(count).is_crowd)
  np.testing.assert_array_equal(label.areas, masks(count).areas)
  assert instance_labels.to_masks(label) == masks(count)


def test_features_are_those_of_the_documentation():
  found = features(tfrecord.serialize(example(masks(2)), classes.describe(INFO)))
  assert {name: value.WhichOneof('kind') for name, value in found.items() if 'object' in name} == {
      'image/object/mask/format': 'bytes_list', 'image/object/mask/counts': 'bytes_list',
      'image/object/class/label': 'int64_list', 'image/object/is_crowd': 'int64_list',
      'image/object/area': 'float_list'}
  assert list(found['image/object/mask/format'].bytes_list.value) == [b'rle']
  assert tuple(found['image/object/mask/counts'].bytes_list.value) == masks(2).counts
  assert list(found['image/object/class/label'].int64_list.value) == [71, 72]
  assert list(found['image/object/is_crowd'].int64_list.value) == [0, 1]
  assert list(found['image/object/area'].float_list.value) == [0.25, 1.25]
  assert 'image/segmentation/class/encoded' not in found and 'image/classes' in found


def test_without_label_there_are_no_instances():
  for label in (None, masks()):
    found = parse(tfrecord.serialize(example(label)), with_label=False).label
    assert found.mask_bits.shape == (HEIGHT, WIDTH, 0) and found.class_ids.shape == (0,)
  assert parse(tfrecord.serialize(example(None)), catalog.built_in('coco_panoptic'),
               with_label=False).label.numpy().tolist() == [[0] * WIDTH] * HEIGHT


@pytest.mark.parametrize('change, words', [
    ({'class_ids': (71, 81)}, 'instance 2 is of class 81, which data set "coco_instances" does not '
     'have (classes 1 to 80)'),
    ({'class_ids': (0, 71)}, 'instance 1 is of class 0'),
    ({'class_ids': (71,)}, 'the record has 2 masks (image/object/mask/counts), 1 classes'),
    ({'is_crowd': (0, 1, 0)}, '3 values of image/object/is_crowd and 2 of image/object/area; one'),
    ({'is_crowd': (0, 2)}, 'instance 2 has 2 as image/object/is_crowd; it must be 0 or 1'),
    ({'areas': (float('nan'), 1)}, 'instance 1 has the area nan'),
    ({'areas': (1, -1)}, 'instance 2 has the area -1.0'),
    ({'counts': (b'', b'o0')}, 'instance 1 is corrupt: its mask has run lengths that add up to 0, '
     'not to 9 x 7'),
    ({'counts': (b'\xff\0', b'o0')}, 'instance 1 is corrupt: its mask has counts that are not run'),
    ({'counts': (masks(1).counts[0], b'o0')}, 'instance 2 is corrupt: its mask has run '
     'lengths that add up to 31, not to 9 x 7'),
    ({'counts': (b'PPPPPPPPPPPPPPPPPPP', b'')}, 'instance 1 is corrupt'),
])
def test_each_fault_is_one_line(change, words):
  assert words in line_of(tfrecord.serialize(example(masks(2, **change))))


def test_the_size_of_the_record_must_be_that_of_the_image():
  record = tfrecord.serialize(example(masks(2))._replace(height=WIDTH, width=HEIGHT))
  assert line_of(record).endswith('the image is 9x7, but the record is 7x9')


def test_many_masks_of_a_large_image_take_no_memory(monkeypatch):
  monkeypatch.setattr(instance_masks, 'MAX_BYTES', HEIGHT * WIDTH)
  assert parse(tfrecord.serialize(example(masks(8)))).label.mask_bits.shape[-1] == 1
  assert 'the image is 9x7 and has 9 instances' in line_of(tfrecord.serialize(example(masks(9))))


def test_inside_tf_data_the_line_is_the_same():
  record = tfrecord.serialize(example(masks(2, counts=(masks(1).counts[0], b'0'))))
  dataset = tf.data.Dataset.from_tensors(record).map(
      lambda record: tfrecord.parse(record, tf.constant('FILE'), INFO))
  spec = dataset.element_spec.label
  assert [value.shape.as_list() for value in spec] == [[None, None, None], [None], [None], [None]]
  with pytest.raises(tf.errors.OpError) as error:
    list(dataset)
  assert errors.describe_data_error(error.value) == (
      'FILE: photo: instance 2 is corrupt: its mask has run lengths that add up to 0, not to 9 x 7')


# --- The other kind of record -----------------------------------------------------------------


def test_panoptic_records_are_not_read_as_instances_nor_the_reverse():
  panoptic = catalog.built_in('coco_panoptic')
  label_map = np.full((HEIGHT, WIDTH), 256, np.int32)
  assert line_of(tfrecord.serialize(example(label_map))) == (
      'FILE: photo: the record has no instance masks ("rle" as feature image/object/mask/format), '
      'and data set "coco_instances" needs them: build the records with this data set; for images '
      'without labels set decode_groundtruth_label to false')
  assert line_of(tfrecord.serialize(example(masks())), panoptic) == (
      'FILE: photo: the record has instance masks (feature image/object/mask/format), and the '
      'labels of data set "coco_panoptic" are panoptic maps: name the data set of these records')


def test_stated_classes_tell_the_two_kinds_apart(tmp_path):
  categories = (Category(1, 1, 'cat', True, (1, 2, 3)),)
  one = DatasetInfo('one', categories, 2, 0, 256)
  two = DatasetInfo('two', categories, 2, 0, 256, masks_overlap=True)
  assert b'masks_overlap' not in classes.describe(one)
  assert classes.difference(classes.describe(two), two) is None
  for stated, info, words in (
      (two, one, 'the records have instance masks that may overlap, and the labels of data set '
       '"one" are panoptic maps'),
      (one, two, 'the records have panoptic maps, and the labels of data set "two" are instance '
       'masks that may overlap')):
    assert classes.difference(classes.describe(stated), info) == words
    path = tmp_path / stated.name
    with tf.io.TFRecordWriter(str(path)) as writer:
      writer.write(tfrecord.serialize(example(masks(0)), classes.describe(stated)))
    with pytest.raises(DataError) as error:
      tfrecord.check_classes([str(path)], info)
    assert str(error.value).startswith(f'{path}: {words}: ')


# --- Diagnosis --------------------------------------------------------------------------------


def test_diagnosis_names_the_record(tmp_path):
  path = tmp_path / 'a'
  with tf.io.TFRecordWriter(str(path)) as writer:
    for label in (masks(2), masks(2, counts=(b'0', b'0'))):
      writer.write(tfrecord.serialize(example(label)))
  offset = files.index_records(str(path)).offsets[1]
  assert tfrecord.diagnose_record(str(path), 0, 0, INFO, True) is None
  assert tfrecord.diagnose_record(str(path), 1, offset, INFO, True).startswith(
      f'{path}: photo: instance 1 is corrupt: its mask has run lengths that add up to 0')
  assert tfrecord.diagnose_record(str(path), 1, offset, INFO, False) is None
  assert tfrecord.diagnose([str(path)], INFO) is None  # Labels are checked where they are read.
