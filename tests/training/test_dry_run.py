"""The memory estimate of the dry run."""

import re

import pytest
import tensorflow as tf
import tiny_runs

import deeplab_tf
from deeplab_tf.training import dry_run


@pytest.fixture(scope='module')
def activations(tmp_path_factory):
  """recomputed -> MiB of activations that are expected at 129x129."""
  path = tiny_runs.write_config(tmp_path_factory.mktemp('dry_run'))
  found = {}
  for recomputed in ('NOTHING', 'AXIAL_BLOCKS', 'BLOCKS', 'BLOCK_GROUPS'):
    config = deeplab_tf.load_config(
        path, [f'model_options {{ backbone {{ recomputed: {recomputed} }} }}'])
    model = deeplab_tf.build_model(config)
    forward = tf.function(lambda x, model=model: model(x, training=True), autograph=False)
    graph = forward.get_concrete_function(tf.TensorSpec([2, 129, 129, 3])).graph
    lines = '\n'.join(dry_run.memory_lines(config, model, graph))
    found[recomputed] = float(re.search(r'activations .* ([\d,]+) MiB', lines)[1].replace(',', ''))
  return found


@pytest.mark.parametrize('recomputed', ['AXIAL_BLOCKS', 'BLOCKS', 'BLOCK_GROUPS'])
def test_what_is_recomputed_is_expected_to_take_less(activations, recomputed):
  assert activations['NOTHING'] > 5
  assert activations[recomputed] < activations['NOTHING']


def test_blocks_are_expected_to_take_much_less(activations):
  assert activations['BLOCKS'] < 0.7 * activations['NOTHING']
