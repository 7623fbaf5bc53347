"""Corrupt images: which are named, how they are counted, what replaces them."""

import contextlib
import itertools

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf import config_fields
from deeplab_tf.data import catalog, corrupt, errors, pipeline, readers, sources
from deeplab_tf.data.records import files, tfrecord
from deeplab_tf.data.sources import _shape_scenes
from deeplab_tf.data.sources import shapes as shapes_source

INFO = catalog.built_in('shapes')
FILES, PER_FILE = 3, 4
COUNT = FILES * PER_FILE
PLAIN = ('dataset: "shapes" crop_size: [128, 160] max_thing_id: 16 shuffle_buffer_size: 5 '
         'augmentations { random_flip: false } ')
AUGMENTED = ('dataset: "shapes" crop_size: [97, 129] max_thing_id: 16 shuffle_buffer_size: 5 '
             'augmentations { min_scale_factor: 0.5 max_scale_factor: 1.5 } ')


class Records:
  """Three files of four drawings; image i is record i % 4 of file i // 4."""

  def __init__(self, folder):
    self.examples = [make() for make in shapes_source.examples(
        sources.BuildOptions(num_images=COUNT))]
    self.paths = [folder / f'a-{file}' for file in range(FILES)]
    self.pattern = f'file_pattern: "{folder}/a-*" '
    for file in range(FILES):
      self.write(file)

  def write(self, file):
    with tf.io.TFRecordWriter(str(self.paths[file])) as writer:
      for example in self.examples[file * PER_FILE:(file + 1) * PER_FILE]:
        writer.write(tfrecord.serialize(example))

  def replace(self, index, **changes):
    self.examples[index] = self.examples[index]._replace(**changes)
    self.write(index // PER_FILE)

  def flip(self, index, position=200):
    """Changes a byte of a record: by default of the data, at 0 of the length."""
    path = self.paths[index // PER_FILE]
    content = bytearray(path.read_bytes())
    content[self.offset(index) + position] ^= 1
    path.write_bytes(content)

  def truncate(self, index):
    path = self.paths[index // PER_FILE]
    path.write_bytes(path.read_bytes()[:self.offset(index) + 100])

  def offset(self, index):
    path = str(self.paths[index // PER_FILE])
    return files.index_records(path).offsets[index % PER_FILE]


@pytest.fixture(name='records')
def fixture_records(tmp_path):
  return Records(tmp_path)


def names(experiment, text, info=INFO):
  dataset = pipeline.eval_dataset(experiment('', text), info)
  return [name.decode() for batch in dataset for name in batch.name.numpy()]


def stream(experiment, text, count, info=INFO, seed=1, **options):
  dataset = pipeline.train_dataset(experiment(text), info, 'mask', seed, **options)
  return [tf.nest.map_structure(lambda x: x.numpy(), b) for b in dataset.take(count)]


def assert_equal(one, two):
  assert len(one) == len(two)
  for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(two)):
    np.testing.assert_array_equal(a, b)


@contextlib.contextmanager
def failure():
  """What the user is told about an error of the pipeline, in a list."""
  lines = []
  with pytest.raises(tf.errors.OpError) as error:
    yield lines
  lines.append(errors.describe_data_error(error.value))


def name(index):
  return f'shapes_train_0_{index:06d}'


def warnings(capsys):
  return [line for line in capsys.readouterr().err.splitlines() if line.startswith('WARNING')]


def wrong_class():
  label = _shape_scenes.generate('train', 5)[1].copy()
  label[5, 5] = 42 * 256 + 1
  return label


# --- Which images are left out, and what is said about them -----------------------------------


@pytest.mark.parametrize('harm, lost, message', [
    (lambda r: r.flip(5), [5], 'a-1: record 1: its checksum is wrong'),
    (lambda r: r.truncate(6), [6, 7], 'a-1: record 2 and what follows in the file cannot be read'),
    # The labels are full of zeros, which must not be taken for empty records.
    (lambda r: r.flip(6, 0), [6, 7],
     'a-1: record 2 and what follows in the file cannot be read'),
    (lambda r: r.truncate(8), [8, 9, 10, 11],
     'a-2: record 0 and what follows in the file cannot be read'),
    (lambda r: r.replace(5, encoded=b'this is no image'), [5],
     f'a-1: {name(5)}: the image is neither JPEG nor PNG, or it is corrupt'),
    (lambda r: r.replace(5, encoded=r.examples[5].encoded[:900]), [5],
     f'a-1: record 1 ({name(5)}) cannot be decoded: '),
    (lambda r: r.replace(5, label=wrong_class()), [5],
     f'a-1: {name(5)}: the label holds 10753, which is class 42'),
    (lambda r: r.replace(5, label=None), [5], f'a-1: {name(5)}: the record has no label'),
], ids=['changed', 'truncated', 'header', 'first', 'text', 'cut', 'class', 'unlabeled'])
def test_what_cannot_be_read_is_named_once_and_left_out(
    records, experiment, capsys, harm, lost, message):
  harm(records)
  text = PLAIN + 'max_damaged_images: 1 batch_size: 5 ' + records.pattern
  expected = [name(i) for i in range(COUNT) if i not in lost]
  for _ in range(2):
    assert names(experiment, text) == expected
  (line,) = warnings(capsys)
  assert line.startswith('WARNING: left out: /') and message in line


@pytest.mark.parametrize('changes, message', [
    ({'encoded': b'this is no image'}, 'the image is neither JPEG nor PNG, or it is corrupt'),
    ({'label': None}, 'the record has no label'),
])
def test_by_default_the_first_one_stops_the_run(records, experiment, capsys, changes, message):
  records.replace(5, **changes)
  with failure() as lines:
    names(experiment, PLAIN + records.pattern)
  assert lines[0].startswith(f'{records.paths[1]}: {name(5)}: {message}')
  with failure() as lines:
    stream(experiment, PLAIN + 'batch_size: 4 ' + records.pattern, 3)
  assert message in lines[0] and not warnings(capsys)


def test_by_default_a_corrupt_file_stops_the_run(records, experiment):
  records.flip(5)
  with failure() as lines:
    stream(experiment, PLAIN + 'batch_size: 4 ' + records.pattern, 3)
  assert f'{records.paths[1]}: is truncated or corrupt: record 1' in lines[0]
  records.truncate(6)
  with pytest.raises(ValueError, match='truncated'):
    names(experiment, PLAIN + records.pattern)


@pytest.mark.parametrize('content', [b'just some text, and a bit more of it', b'x', b'\0' * 99],
                         ids=['text', 'short', 'zeros'])
def test_other_files_are_refused_even_so(records, experiment, content):
  records.paths[1].write_bytes(content)
  with pytest.raises(ValueError, match=str(records.paths[1])):
    names(experiment, PLAIN + 'max_damaged_images: 50 ' + records.pattern)


def test_files_are_searched_when_they_are_reached_if_there_are_many(
    records, experiment, capsys, monkeypatch):
  monkeypatch.setattr(readers, '_CHECKED_BYTES', 0)
  records.truncate(6)
  text = PLAIN + 'max_damaged_images: 1 ' + records.pattern
  options = experiment(text).train_dataset_options
  source = readers.open_source(options, INFO, 'train_dataset_options')
  assert source.count() is None and source.count_exactly() == COUNT - 1
  assert len(names(experiment, text)) == COUNT - 2
  assert len(warnings(capsys)) == 1


def test_a_file_that_disappears_is_corruption(records, experiment, capsys):
  config = experiment('', PLAIN + 'max_damaged_images: 4 batch_size: 1 ' + records.pattern)
  dataset = pipeline.eval_dataset(config, INFO)
  records.paths[1].unlink()
  assert len(list(dataset)) == COUNT - PER_FILE
  lines = warnings(capsys)
  assert len(lines) == PER_FILE
  assert all(f'{records.paths[1]}: record' in line and 'No such file' in line for line in lines)


def test_too_many_things_for_the_config_are_not_corrupt_images(records, experiment, capsys):
  text = PLAIN.replace('max_thing_id: 16', 'max_thing_id: 1')
  with failure() as lines:
    stream(experiment, text + 'max_damaged_images: 50 batch_size: 4 ' + records.pattern, 3)
  assert 'raise max_thing_id' in lines[0] and not warnings(capsys)


def test_iterators_that_are_given_up_leave_no_trace(records, experiment, capsys):
  text = AUGMENTED + 'max_damaged_images: 50 batch_size: 2 ' + records.pattern
  dataset = pipeline.train_dataset(experiment(text), INFO, 'mask', 1)
  for count in range(6):
    list(itertools.islice(iter(dataset), count % 3))
  assert not warnings(capsys)


# --- The limit --------------------------------------------------------------------------------


@pytest.mark.parametrize('field', ['train_dataset_options', 'eval_dataset_options'])
def test_one_more_than_allowed_stops_the_run_with_their_names(
    records, experiment, capsys, field):
  for index in (1, 3, 5, 9, 11):
    records.flip(index)
  text = PLAIN + 'batch_size: 2 max_damaged_images: 4 ' + records.pattern
  with failure() as lines:
    if field == 'train_dataset_options':
      stream(experiment, text, 20)
    else:
      names(experiment, text)
  (line,) = lines
  assert line.startswith(f'{field}.max_damaged_images is 4 and 5 images cannot be read: /')
  assert line.endswith('; and 2 more; repair or remove them, or raise the limit')
  assert line.count(': its checksum is wrong; ') == 3 and '\n' not in line
  assert len(warnings(capsys)) == 4


@pytest.mark.slow
def test_epochs_and_evaluations_do_not_count_an_image_again(records, experiment, capsys):
  records.flip(1)
  records.flip(10)
  text = PLAIN + 'batch_size: 3 max_damaged_images: 2 ' + records.pattern
  assert len(stream(experiment, text, 16)) == 16
  assert len(stream(experiment, text, 4, start_step=3)) == 4
  assert len(warnings(capsys)) == 2
  for _ in range(3):
    assert len(names(experiment, text)) == COUNT - 2
  assert len(warnings(capsys)) == 2, 'training and evaluation count for themselves'


def test_log_counts_different_images(capsys):
  log = corrupt.Log('x', 2)
  for place in ('a', 'b', 'a', 'b'):
    log.add(place, lambda: None)
  assert warnings(capsys) == [
      f'WARNING: left out: {place}: cannot be read, but a second look finds nothing wrong with it'
      for place in 'ab']
  for place in ('c', 'd', 'a'):
    with pytest.raises(ValueError, match='x.max_damaged_images is 2 and 3 images cannot be read'):
      log.add(place, lambda: 'oh')


def test_limit_is_not_negative(experiment):
  config = experiment('', 'max_damaged_images: -1')
  problem = config_fields.problem(config)
  assert problem == 'eval_dataset_options.max_damaged_images is -1: it must be at least 0'


# --- What takes their place in training -------------------------------------------------------


def test_the_image_before_takes_the_place_and_no_other_moves(records, experiment):
  text = PLAIN + 'batch_size: 1 max_damaged_images: 3 ' + records.pattern
  sound = stream(experiment, text, 3 * COUNT)
  order = [drawing(batch) for batch in sound]
  lost = {order[4], order[5], order[9]}
  for index in lost:
    records.flip(index)
  found = stream(experiment, text, 3 * COUNT)
  for number, (batch, whole) in enumerate(zip(found, sound)):
    if order[number] not in lost:
      assert_equal(batch, whole)
    else:
      assert drawing(batch) == next(i for i in reversed(order[:number]) if i not in lost)


def drawing(batch):
  """The number of the image that is a batch by itself, with its own labels."""
  image = np.round((batch[0][0] + 1) * 127.5)
  drawings = [_shape_scenes.generate('train', index) for index in range(COUNT)]
  (index,) = [i for i, (drawn, _) in enumerate(drawings) if np.array_equal(drawn, image)]
  np.testing.assert_array_equal(batch[1].semantic_map[0], drawings[index][1] // 256)
  return index


def test_before_the_first_there_is_a_black_image_without_labels(records, experiment):
  text = (PLAIN.replace('shuffle_buffer_size: 5', 'shuffle_buffer_size: 1')
          + f'max_damaged_images: 2 batch_size: 1 file_pattern: "{records.paths[0]}" ')
  records.flip(0)
  records.flip(1)
  blank, also_blank, third = stream(experiment, text, 3)
  for images, targets in (blank, also_blank):
    assert np.all(images == -1) and not np.any(targets.semantic_map)
    assert np.all(targets.mask_ids == -1)
  assert np.any(third[0] != -1) and np.any(third[1].semantic_map)


@pytest.mark.slow
def test_a_resumed_run_sees_the_same_replacements(records, experiment):
  text = AUGMENTED + 'batch_size: 2 max_damaged_images: 5 ' + records.pattern
  for index in (0, 1, 2, 7, 8):
    records.flip(index)
  whole = stream(experiment, text, 12)
  for start in (1, 4, 9):
    assert_equal(stream(experiment, text, 3, start_step=start), whole[start:start + 3])


def test_the_replacements_do_not_depend_on_the_number_of_workers(records, experiment):
  text = AUGMENTED + 'batch_size: 4 max_damaged_images: 4 ' + records.pattern
  for index in (0, 1, 7, 8):
    records.flip(index)
  whole = stream(experiment, text, 4, start_step=3)
  parts = [stream(experiment, text, 4, start_step=3,
                  input_context=tf.distribute.InputContext(2, worker, 2)) for worker in range(2)]
  for step, batch in enumerate(whole):
    together = tf.nest.map_structure(
        lambda *x: np.concatenate(x), parts[0][step], parts[1][step])
    assert_equal(together, batch)


@pytest.mark.parametrize('kind', ['records', 'drawn'])
def test_without_corruption_allowing_it_changes_no_bit(records, experiment, kind, capsys):
  text = AUGMENTED + 'batch_size: 5 '
  text += records.pattern if kind == 'records' else f'shapes {{ num_images: {COUNT} }} '
  allowing = text + 'max_damaged_images: 5 '
  for options in ({}, {'start_step': 3}):
    assert_equal(stream(experiment, text, 6, **options),
                 stream(experiment, allowing, 6, **options))
  evaluations = [
      list(pipeline.eval_dataset(experiment('', t), INFO).as_numpy_iterator())
      for t in (text, allowing)]
  assert_equal(*evaluations)
  assert not warnings(capsys)


# --- Images read without records --------------------------------------------------------------


def allowing(panoptic_folder, experiment, corrupt=1):
  text = panoptic_folder.options(f'max_damaged_images: {corrupt}')
  return catalog.from_config(experiment(text, text)), text


def spoil_image(folder):
  (folder.image_dir / 'photo1.png').write_bytes(b'this is no image')


def cut_image(folder):
  path = folder.image_dir / 'photo1.png'
  path.write_bytes(path.read_bytes()[:200])


def remove_image(folder):
  (folder.image_dir / 'photo1.png').unlink()


def remove_label(folder):
  (folder.label_dir / 'photo1.png').unlink()


def cut_label(folder):
  path = folder.label_dir / 'photo1.png'
  path.write_bytes(path.read_bytes()[:60])


def unknown_segment(folder):
  ids = folder.ids[1].copy()
  ids[0, 0] = 99
  folder.save_ids(folder.label_dir / 'photo1.png', ids)


# Some seconds each: an image and a label that are not there are always tried.
@pytest.mark.parametrize('harm, message', [
    pytest.param(spoil_image, 'val/photo1.png: the image is neither JPEG nor PNG, or it is corrupt',
                 marks=pytest.mark.slow),
    pytest.param(cut_image, 'val/photo1.png: ', marks=pytest.mark.slow),
    (remove_image, 'raw/val/photo1.png: No such file or directory'),
    (remove_label, 'panoptic_val/photo1.png: there is no such panoptic PNG'),
    pytest.param(cut_label, 'panoptic_val/photo1.png: is not an image, or is corrupt (',
                 marks=pytest.mark.slow),
    pytest.param(unknown_segment,
                 'panoptic_val/photo1.png: segment id 99 (1 pixels) is not in the JSON',
                 marks=pytest.mark.slow),
], ids=lambda value: getattr(value, '__name__', ''))
def test_direct_images_are_left_out_and_replaced(
    panoptic_folder, experiment, capsys, harm, message):
  harm(panoptic_folder)
  info, text = allowing(panoptic_folder, experiment)
  assert names(experiment, text, info) == ['photo0']
  (line,) = warnings(capsys)
  assert line.startswith('WARNING: left out: /') and message in line
  batches = stream(experiment, text, 4, info)
  # Of two images one is left: it is everywhere, but for a blank one if the other came first.
  seen = [bool(np.any(batch[1].semantic_map[i])) for batch in batches for i in range(2)]
  assert seen in ([True] * 8, [False] + [True] * 7)
  assert len(warnings(capsys)) == 1


def test_direct_images_beyond_the_limit(panoptic_folder, experiment):
  unknown_segment(panoptic_folder)
  (panoptic_folder.image_dir / 'photo0.png').write_bytes(b'this is no image')
  info, text = allowing(panoptic_folder, experiment)
  with failure() as lines:
    stream(experiment, text, 4, info)
  assert lines[0].startswith('train_dataset_options.max_damaged_images is 1 and 2 images cannot')
  assert 'segment id 99' in lines[0] and 'photo0.png: the image is neither' in lines[0]


def test_more_missing_images_than_allowed_are_found_at_the_start(panoptic_folder, experiment):
  remove_image(panoptic_folder)
  (panoptic_folder.image_dir / 'photo0.png').unlink()
  info, text = allowing(panoptic_folder, experiment)
  with pytest.raises(FileNotFoundError, match='photo0.png: no such file.*1 more like it'):
    names(experiment, text, info)
  panoptic_folder.image_dir.rmdir()
  info, text = allowing(panoptic_folder, experiment, corrupt=50)
  with pytest.raises(FileNotFoundError, match='no such folder'):
    names(experiment, text, info)
