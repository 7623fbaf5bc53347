"""A model starts from the variables of another checkpoint that fit, and reports which did."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_cmt

import deeplab_tf
from deeplab_tf.checkpoints import initial, restore
from deeplab_tf.compat import keras
from deeplab_tf.layers import variable_paths
from deeplab_tf.layers.axial_attention import RelativePositions


class Layer(keras.layers.Layer):
  """Some kernels, and a table of relative positions per length."""

  def __init__(self, *widths, tables=()):
    super().__init__()
    self.kernels = [self.add_weight(f'kernel{i}', (2, n)) for i, n in enumerate(widths)]
    self.tables = [_table(rows) for rows in tables]


def _table(rows, channels=2):
  layer = RelativePositions(channels)
  layer.embeddings = tf.Variable(tf.random.normal([rows, channels]))
  return layer


class Network(keras.Model):

  def __init__(self, **layers):
    super().__init__()
    for name, layer in layers.items():
      setattr(self, name, layer)


def _save(model, folder, **items):
  return tf.train.Checkpoint(model=model, **items).write(str(folder / 'ckpt-1'))


def _section(lines, fate):
  """The lines of the table below one fate."""
  start = next(i for i, line in enumerate(lines) if line.startswith(f'  {fate}'))
  section = lines[start:start + 1]
  for line in lines[start + 1:]:
    if not line.startswith('    '):
      break
    section.append(line)
  return section


def test_another_number_of_classes_lists_both_shapes(tmp_path):
  config = deeplab_tf.load_config(tiny.write_config(tmp_path))
  source = deeplab_tf.build_model(config)
  for variable in source.variables:
    variable.assign(tf.random.normal(variable.shape))
  prefix = _save(source, tmp_path)
  config.train_dataset_options.dataset = config.eval_dataset_options.dataset = 'coco_panoptic'
  model = deeplab_tf.build_model(config)
  before = {path: v.numpy() for path, v in variable_paths.variables_by_path(model).items()}
  lines = initial.restore_matching(model, prefix)
  classes = len(source.dataset_info.class_ids) + 1
  others = len(model.dataset_info.class_ids) + 1
  assert f'      mask_head/class_projection/bias: [{classes}] there, [{others}] here' in lines
  own = variable_paths.variables_by_path(model)
  for path, expected in variable_paths.variables_by_path(source).items():
    if expected.shape != own[path].shape:
      expected = before[path]
    np.testing.assert_array_equal(own[path], expected)
  theirs = variable_paths.variables_by_path(source)
  changed = [path for path in own if own[path].shape != theirs[path].shape]
  assert all(path.split('/')[-2] in ('class_projection', 'last') for path in changed)
  assert lines[0] == (f'initial checkpoint: {len(own) - len(changed)} of {len(own)} variables '
                      f'from {prefix}')


def test_shorter_and_longer_tables_keep_distance_0_in_the_middle(tmp_path):
  source = Network(backbone=Layer(3, tables=(9, 5, 7)))
  prefix = _save(source, tmp_path)
  model = Network(backbone=Layer(3, tables=(5, 9, 7)))
  lines = initial.restore_matching(model, prefix)
  cut, extended, same = (table.embeddings.numpy() for table in model.backbone.tables)
  saved = [table.embeddings.numpy() for table in source.backbone.tables]
  np.testing.assert_array_equal(cut, saved[0][2:7])
  np.testing.assert_array_equal(extended[2:7], saved[1])
  np.testing.assert_array_equal(extended[[0, 1, 7, 8]], saved[1][[0, 0, 4, 4]])
  np.testing.assert_array_equal(same, saved[2])
  assert lines[0].startswith('initial checkpoint: 4 of 4 variables from ')
  assert _section(lines, 'fitted') == [
      '  fitted: 2 variables, 28 parameters',
      '    backbone: 2 variables, 28 parameters',
      '      backbone/tables/0/embeddings: [9, 2] there, [5, 2] here',
      '      backbone/tables/1/embeddings: [5, 2] there, [9, 2] here']


def test_a_table_that_cannot_be_fitted_stays(tmp_path):
  prefix = _save(Network(backbone=Layer(3, tables=(9, 8))), tmp_path)
  target = Layer(3)
  target.tables = [_table(9, channels=3), _table(5)]
  model = Network(backbone=target)
  before = [table.embeddings.numpy() for table in target.tables]
  lines = initial.restore_matching(model, prefix)
  for table, expected in zip(target.tables, before):
    np.testing.assert_array_equal(table.embeddings, expected)
  assert '      backbone/tables/1/embeddings: [8, 2] there, [5, 2] here' in _section(
      lines, 'of another shape, as initialized')


def test_a_layer_of_the_real_network_fits_its_tables(tmp_path):
  override = 'model_options { max_deeplab { pixel_to_pixel_attention: AXIAL } }'
  model = deeplab_tf.build_model(deeplab_tf.load_config(tiny.write_config(tmp_path), [override]))
  owners = variable_paths.owners_by_path(model)
  tables = [path for path in owners if path.endswith('_positions/embeddings')]
  assert tables
  for path in tables:
    assert isinstance(owners[path], RelativePositions)
  variable = variable_paths.variables_by_path(model)[tables[0]]
  fitted = owners[tables[0]].fit_saved_value(variable, variable.numpy()[4:-4])
  np.testing.assert_array_equal(fitted[4:-4], variable.numpy()[4:-4])
  assert fitted.shape == variable.shape


def test_a_backbone_alone_is_enough_and_the_rest_is_counted(tmp_path):
  source = Network(backbone=Layer(3, 4), classifier=Layer(1000))
  prefix = _save(source, tmp_path)
  model = Network(backbone=Layer(3, 4), pixel_decoder=Layer(*range(1, 25)))
  lines = initial.restore_matching(model, prefix)
  np.testing.assert_array_equal(model.backbone.kernels[1], source.backbone.kernels[1])
  assert lines == [
      f'initial checkpoint: 2 of 26 variables from {prefix}',
      '  restored: 2 variables, 14 parameters',
      '    backbone: 2 variables, 14 parameters',
      '  not in the checkpoint, as initialized: 24 variables, 600 parameters',
      '    pixel_decoder: 24 variables, 600 parameters',
      '  only in the checkpoint, unused: 1 variable, 2,000 parameters',
      '    classifier: 1 variable, 2,000 parameters']


def test_a_long_list_is_cut_for_each_part(tmp_path):
  prefix = _save(Network(backbone=Layer(3, 1, 1, 1, 1, 1), head=Layer(3, 1)), tmp_path)
  model = Network(backbone=Layer(3, 2, 2, 2, 2, 2, 2, 2), head=Layer(3, 2))
  lines = initial.restore_matching(model, prefix)
  assert _section(lines, 'of another shape') == [
      '  of another shape, as initialized: 6 variables, 24 parameters',
      '    backbone: 5 variables, 20 parameters',
      '      backbone/kernel1: [2, 1] there, [2, 2] here',
      '      backbone/kernel2: [2, 1] there, [2, 2] here',
      '      backbone/kernel3: [2, 1] there, [2, 2] here',
      '      and 2 more',
      '    head: 1 variable, 4 parameters',
      '      head/kernel1: [2, 1] there, [2, 2] here']
  # Some of the backbone is there, so its name alone would not tell which are not.
  assert '      backbone/kernel6' in _section(lines, 'not in the checkpoint')


def test_when_all_fits_the_table_is_one_line(tmp_path):
  prefix = _save(Network(backbone=Layer(3)), tmp_path)
  assert len(initial.restore_matching(Network(backbone=Layer(3)), prefix)) == 2


def test_paths_can_be_left_out(tmp_path):
  source = Network(backbone=Layer(3), head=Layer(3, 4))
  prefix = _save(source, tmp_path)
  model = Network(backbone=Layer(3), head=Layer(3, 5))
  before = model.head.kernels[0].numpy()
  skip = variable_paths.paths_of(model, [model.head.kernels[0], model.head])
  assert skip == ['head/kernel0', 'head/kernel1']
  lines = initial.restore_matching(model, prefix, skip)
  np.testing.assert_array_equal(model.head.kernels[0], before)
  assert _section(lines, 'left out on request')[0].endswith('2 variables, 16 parameters')
  with pytest.raises(initial.NothingMatches):
    initial.restore_matching(model, prefix, list(variable_paths.variables_by_path(model)))


def test_both_networks_start_from_one_backbone(tmp_path):
  config = deeplab_tf.load_config(tiny_cmt.write_config(tmp_path))
  single = deeplab_tf.build_model(config)
  prefix = tf.train.Checkpoint(model=Network(backbone=single.backbone)).write(
      str(tmp_path / 'ckpt-1'))
  config.model_options.cmt_deeplab.recursive_feature_network = True
  double = deeplab_tf.build_model(config)
  report = initial.restore_matching(double, prefix)
  paths = variable_paths.variables_by_path(double)
  own = variable_paths.variables_by_path(single)
  count = 0
  for path in own:
    if path.startswith('backbone/'):
      np.testing.assert_array_equal(paths[path], own[path])
      np.testing.assert_array_equal(paths['first_network/' + path], own[path])
      count += 2
  assert report[0].startswith(f'initial checkpoint: {count} of {len(paths)} variables')
  assert not _section_of_unused(report)


def _section_of_unused(report):
  return [line for line in report if 'only in the checkpoint' in line]


def test_averages_are_taken_and_told(tmp_path):
  source = Network(backbone=Layer(3, tables=(9,)), head=Layer(3))
  own = variable_paths.variables_by_path(source)
  averages = {path: tf.Variable(own[path] + 1.0) for path in own if path.startswith('backbone')}
  prefix = _save(source, tmp_path, **{restore.AVERAGED: averages})
  model = Network(backbone=Layer(3, tables=(5,)), head=Layer(3))
  lines = initial.restore_matching(model, prefix)
  np.testing.assert_array_equal(model.backbone.kernels[0], source.backbone.kernels[0] + 1.0)
  np.testing.assert_array_equal(model.backbone.tables[0].embeddings,
                                source.backbone.tables[0].embeddings[2:7] + 1.0)
  np.testing.assert_array_equal(model.head.kernels[0], source.head.kernels[0])
  assert lines[1] == '  averages instead of weights: of 2 variables'


def test_a_corrupt_checkpoint_changes_nothing(tmp_path):
  prefix = _save(Network(backbone=Layer(3, 4)), tmp_path)
  data = tmp_path / 'ckpt-1.data-00000-of-00001'
  content = data.read_bytes()
  data.write_bytes(bytes(30) + content[30:])
  model = Network(backbone=Layer(3, 4))
  before = [v.numpy() for v in model.variables]
  with pytest.raises(ValueError, match='the checkpoint is corrupt') as error:
    initial.restore_matching(model, prefix)
  assert '\n' not in str(error.value)
  for variable, expected in zip(model.variables, before):
    np.testing.assert_array_equal(variable, expected)


def test_layers_are_found_under_mixed_precision_too():
  keras.mixed_precision.set_global_policy('mixed_bfloat16')
  try:
    model = Network(backbone=Layer(3), head=Layer(3, 4))
  finally:
    keras.mixed_precision.set_global_policy('float32')
  assert variable_paths.paths_of(model, [model.head]) == ['head/kernel0', 'head/kernel1']
  assert variable_paths.owners_by_path(model)['head/kernel1'] is model.head
