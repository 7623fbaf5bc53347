"""A train step of every architecture; `make test-kernels` runs it with either kind of kernels."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_centers
import tiny_classification
import tiny_cmt
import tiny_mask2former

from deeplab_tf import config as config_lib
from deeplab_tf import models, modules
from deeplab_tf.benchmark import synthetic_batches
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.training import state, trainer

_CONFIGS = {
    'max_deeplab': lambda folder: tiny.config_text(),
    'cmt_deeplab': lambda folder: tiny_cmt.config_text(),
    'panoptic_deeplab': lambda folder: tiny_centers.CONFIG,
    'classification': lambda folder: tiny_classification.CONFIG % {'folder': folder},
    'mask2former': lambda folder: tiny_mask2former.CONFIG,
}
# Dilated, depthwise and switchable convolutions in the backbone as well.
_BACKBONES = {'stride 8': 'model_options { backbone { output_stride: 8 } }',
              'switchable': 'model_options { backbone { use_sac_beyond_stride: 8 } }'}
# Architectures whose backbones do not have both.
_OTHER_BACKBONES = {'mask2former': {'ResNet': '', 'Swin': tiny_mask2former.SWIN},
                    'cmt_deeplab': {'stride 16': '', 'switchable': _BACKBONES['switchable']}}


def _step(config):
  """Trains for a step on made-up data; returns its loss and whether each variable changed."""
  info, architecture = catalog.from_config(config), models.architecture(config)
  options = config.train_dataset_options
  batch = synthetic_batches.training_batch(config, info, architecture.target_form,
                                           options.batch_size, tuple(options.crop_size))
  strategy = tf.distribute.OneDeviceStrategy('/cpu:0')
  keras.utils.set_random_seed(0)
  model, step = state.build_model(config, info, architecture, strategy)
  before = [v.numpy() for v in model.trainable_variables]
  losses = []
  learnt = state.build(config, architecture, model, step, strategy)
  trained = trainer.build(
      config, architecture, info, strategy=strategy, state=learnt,
      batches=lambda start: itertools.repeat(batch),
      on_step=lambda step, output, seconds: losses.append(float(output.losses['total'])))
  trained.train(1)
  changed = [np.any(v.numpy() != old) for v, old in zip(model.trainable_variables, before)]
  return losses, changed


@pytest.mark.parametrize('name,override', [
    pytest.param(name, override, id=f'{name}, {backbone}') for name in modules.available('models')
    for backbone, override in _OTHER_BACKBONES.get(name, _BACKBONES).items()])
def test_an_architecture_trains(tmp_path, name, override):
  for part in ('train', 'val'):
    tiny_classification.write_images(tmp_path / part)
  path = tmp_path / 'config.textproto'
  path.write_text(_CONFIGS[name](tmp_path), encoding='utf-8')
  losses, changed = _step(config_lib.load_config(str(path), [override]))
  assert len(losses) == 1 and np.isfinite(losses[0])
  # Residual branches start at zero, and what is before them then has no gradient.
  assert np.any(changed)
