"""A semantic Panoptic-DeepLab is trained, scored and used like any other model."""

import numpy as np
import tiny_centers
import training_runs

import deeplab_tf
from deeplab_tf.data import catalog
from deeplab_tf.results import SemanticResult


def test_it_is_trained_scored_and_used(tmp_path):
  path = tiny_centers.write_config(tmp_path)
  semantic = tmp_path / 'semantic.textproto'
  semantic.write_text(f'base_config: "{path}"\ntask: SEMANTIC\n{tiny_centers.SEMANTIC}')
  done = training_runs.run(semantic, tmp_path / 'run', '--mode=train_and_eval')
  assert 'mIoU' in done.out and 'PQ' not in done.out, done.out[-2000:]
  config = deeplab_tf.load_config(semantic)
  segmenter = deeplab_tf.Segmenter.from_checkpoint(config, str(tmp_path / 'run'))
  result = segmenter(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
  assert isinstance(result, SemanticResult) and result.semantic_map.shape == (50, 70)
  info = catalog.from_config(config)
  assert set(np.unique(result.semantic_map)) <= {info.ignore_label, *info.class_ids}
