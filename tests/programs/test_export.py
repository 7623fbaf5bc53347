"""trainer/export.py."""

import numpy as np
import programs
import tensorflow as tf
import tiny

import deeplab_tf
from deeplab_tf.checkpoints import convert

PROGRAM = 'trainer/export.py'


def test_a_checkpoint_becomes_a_saved_model(tmp_path):
  path = tiny.write_config(tmp_path)
  config = deeplab_tf.load_config(path)
  prefix = convert.save_checkpoint(deeplab_tf.build_model(config), str(tmp_path / 'run/ckpt-3'))
  target = tmp_path / 'exported'
  done = programs.run(PROGRAM, f'--config_file={path}', f'--checkpoint={tmp_path / "run"}',
                      f'--export_dir={target}',
                      '--override=evaluator_options { thing_area_limit: 4 }')
  assert prefix in done.stdout
  image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
  loaded = tf.saved_model.load(str(target))
  outputs = loaded.signatures['serving_default'](images=tf.constant(image[None]))
  changed = deeplab_tf.load_config(path, ['evaluator_options { thing_area_limit: 4 }'])
  expected = deeplab_tf.Segmenter.from_checkpoint(changed, prefix)(image)
  np.testing.assert_array_equal(outputs['panoptic_map'][0], expected.panoptic_map)
  assert deeplab_tf.load_config(target / 'assets.extra' / 'config.textproto') == changed
  assert sorted(p.name for p in tmp_path.iterdir()) == ['exported', 'run', path.name]


def test_wrong_use_is_one_line(tmp_path):
  path = tiny.write_config(tmp_path)
  line = programs.error_line(PROGRAM, f'--config_file={path}', '--checkpoint=nowhere',
                             f'--export_dir={tmp_path / "out"}')
  assert 'nowhere: no such checkpoint' in line
  line = programs.error_line(PROGRAM, f'--config_file={path}', '--checkpoint=x')
  assert '--export_dir' in line
  line = programs.error_line(PROGRAM, f'--config_file={path}', '--checkpoint=x', '--export_dir=y',
                             '--format=onnx')
  assert 'saved_model' in line and 'tflite' in line
  assert not (tmp_path / 'out').exists()
