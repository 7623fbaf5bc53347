"""Trainings of Mask2Former: on two devices as on one, and after a kill as without it."""

import itertools
import json
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import tiny_mask2former
import training_runs

from deeplab_tf import config as config_lib
from deeplab_tf import models
from deeplab_tf.benchmark import synthetic_batches
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.training import state, trainer

STEPS = 3
# Batch norms of a replica see its own images only.
FROZEN = 'model_options { backbone { resnet { frozen_batch_norm: true } } }'
OPTIONS = {'resnet': [FROZEN], 'swin, two parts': [
    tiny_mask2former.SWIN, 'train_dataset_options { batch_size: 4 }',
    'trainer_options { gradient_accumulation_steps: 2 }']}


def losses(strategy, name: str, folder: str) -> list[list[float]]:
  """Returns loss and gradient norm of each step of a short training."""
  config = config_lib.load_config(tiny_mask2former.write_config(folder), OPTIONS[name])
  info, architecture = catalog.from_config(config), models.architecture(config)
  options, seen = config.train_dataset_options, []
  batch = synthetic_batches.training_batch(config, info, architecture.target_form,
                                           options.batch_size, tuple(options.crop_size))
  share = options.batch_size // strategy.num_replicas_in_sync

  def own(context):
    start = context.replica_id_in_sync_group * share
    return tf.nest.map_structure(lambda x: x[start:start + share], batch)

  keras.utils.set_random_seed(0)
  model, step = state.build_model(config, info, architecture, strategy)
  parts = strategy.experimental_distribute_values_from_function(own)
  trained = trainer.build(
      config, architecture, info, strategy=strategy,
      state=state.build(config, architecture, model, step, strategy),
      batches=lambda start: itertools.repeat(parts),
      on_step=lambda step, output, seconds: seen.append(
          [float(output.losses['total']), float(output.gradient_norm)]))
  trained.train(STEPS)
  return seen


MIRRORED = textwrap.dedent("""
    import json
    import sys
    sys.path[:0] = {paths!r}
    import tensorflow as tf
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    import test_mask2former_runs
    strategy = tf.distribute.MirroredStrategy(['/cpu:0', '/cpu:1'])
    print(json.dumps(test_mask2former_runs.losses(strategy, {name!r}, {folder!r})))
""")


@pytest.mark.slow
@pytest.mark.parametrize('name', OPTIONS)
def test_two_mirrored_devices_give_the_losses_of_one(name, tmp_path):
  here = pathlib.Path(__file__).parent
  # A process of its own: logical devices are set before TensorFlow starts.
  program = MIRRORED.format(paths=[str(here), str(here.parent / 'support')], name=name,
                            folder=str(tmp_path))
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True,
                        check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  found = np.array(json.loads(done.stdout.splitlines()[-1]))
  expected = np.array(losses(tf.distribute.OneDeviceStrategy('/cpu:0'), name, str(tmp_path)))
  assert found.shape == expected.shape == (STEPS, 2) and len(set(expected[:, 0])) == STEPS
  np.testing.assert_allclose(found[0], expected[0], rtol=2e-5)
  # Adam divides by gradients, so differences of rounding grow with the steps.
  np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_losses_of_an_uninterrupted_one(tmp_path):
  config = tiny_mask2former.write_config(tmp_path)
  training_runs.run(config, tmp_path / 'whole', '--mode=train')
  expected = training_runs.losses(tmp_path / 'whole')
  training_runs.kill(config, tmp_path / 'killed', after_step=3)
  training_runs.run(config, tmp_path / 'killed', '--mode=train')
  found = training_runs.losses(tmp_path / 'killed')
  assert sorted(found) == sorted(expected) == [1, 2, 3, 4]
  for step, (loss,) in expected.items():
    assert found[step][-1] == pytest.approx(loss, rel=1e-5), step
