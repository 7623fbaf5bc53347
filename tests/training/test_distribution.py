"""Which devices a run uses, and what is refused on them."""

import json

import pytest
import tensorflow as tf
import tiny_runs

from deeplab_tf import config as config_lib
from deeplab_tf.training import distribution


@pytest.fixture
def config(tmp_path):
  return config_lib.load_config(tiny_runs.write_config(tmp_path))


class Replicas:
  """As much of a strategy as the checks look at."""

  def __init__(self, number):
    self.num_replicas_in_sync = number


def tpu_strategy(monkeypatch, calls):
  """What `build` returns for a TPU, with stand-ins for what only a TPU has."""

  class Resolver:

    def __init__(self, tpu):
      calls.append(('resolver', tpu))

  class Strategy(tf.distribute.OneDeviceStrategy):

    def __init__(self, resolver):
      calls.append(('strategy', type(resolver).__name__))
      super().__init__('/cpu:0')

  monkeypatch.setattr(tf.distribute.cluster_resolver, 'TPUClusterResolver', Resolver)
  monkeypatch.setattr(tf.config, 'experimental_connect_to_cluster',
                      lambda resolver: calls.append(('connect',)))
  monkeypatch.setattr(tf.tpu.experimental, 'initialize_tpu_system',
                      lambda resolver: calls.append(('initialize',)))
  monkeypatch.setattr(tf.distribute, 'TPUStrategy', Strategy)


def test_compiled_evaluation_needs_a_crop_size(config):
  strategy = tf.distribute.get_strategy()
  options = config.eval_dataset_options
  options.ClearField('crop_size')
  options.size_divisor = 32
  distribution.check(config, strategy)
  config.trainer_options.jit_compile = True
  distribution.check(config, strategy, 'train')
  with pytest.raises(config_lib.ConfigError, match='size_divisor makes.*jit_compile compiles for '
                     'one size: set eval_dataset_options.crop_size') as error:
    distribution.check(config, strategy)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name, connects', [('my-tpu', True), ('local', False)])
def test_a_tpu_is_resolved_connected_and_initialized(name, connects, monkeypatch, config):
  calls = []
  tpu_strategy(monkeypatch, calls)
  strategy = distribution.build(tpu=name)
  assert distribution.is_tpu(strategy)
  expected = [('resolver', name)] + [('connect',)] * connects
  assert calls == expected + [('initialize',), ('strategy', 'Resolver')]
  # The matching solver is the one that compiles.
  losses = config.trainer_options.loss_options
  distribution.adapt(config, strategy)
  assert losses.matching_solver == losses.NATIVE
  losses.matching_solver = losses.SCIPY
  with pytest.raises(ValueError, match='SCIPY runs on the host.*set it to NATIVE'):
    distribution.check(config, strategy)


def test_flags_that_contradict_or_ask_too_much_are_refused():
  with pytest.raises(ValueError, match='--tpu and --num_gpus exclude each other'):
    distribution.build(num_gpus=2, tpu='local')
  with pytest.raises(ValueError, match=r'--num_gpus=3, and TensorFlow sees 0; it can be 0'):
    distribution.build(num_gpus=3)


def test_a_cpu_is_one_device_with_a_warning():
  strategy = distribution.build(num_gpus=0)
  assert isinstance(strategy, tf.distribute.OneDeviceStrategy)
  lines = distribution.describe(strategy)
  assert lines[0] == 'devices: 1 CPU (OneDeviceStrategy)'
  assert 'sees no GPU' in lines[1]


WORKERS = {'worker': ['a:1', 'b:2']}


def _text(cluster, kind, index):
  return json.dumps({'cluster': cluster, 'task': {'type': kind, 'index': index}})


def test_the_first_worker_or_the_chief_writes():
  assert distribution.read_cluster('') == distribution.Cluster()
  assert distribution.Cluster().is_chief
  first = distribution.read_cluster(_text(WORKERS, 'worker', 0))
  assert first.workers == ('a:1', 'b:2') and first.is_chief
  assert not distribution.read_cluster(_text(WORKERS, 'worker', 1)).is_chief
  with_chief = {'chief': ['c:3'], **WORKERS}
  assert distribution.read_cluster(_text(with_chief, 'chief', 0)).is_chief
  worker = distribution.read_cluster(_text(with_chief, 'worker', 0))
  assert worker.workers == ('c:3', 'a:1', 'b:2') and worker.index == 1


@pytest.mark.parametrize('text, reason', [
    ('{', 'Expecting'),
    ('[]', 'list indices'),
    (json.dumps({'cluster': WORKERS}), "'task' is missing"),
    (_text(WORKERS, 'worker', 2), 'worker 2, which is not in its cluster'),
    (_text(WORKERS, 'chief', 0), 'chief 0, which is not in its cluster'),
    (_text({'ps': ['a:1'], **WORKERS}, 'worker', 0), 'ps'),
])
def test_a_wrong_tf_config_is_one_line_with_an_example(text, reason):
  with pytest.raises(ValueError) as error:
    distribution.read_cluster(text)
  assert reason in str(error.value)
  assert '"worker": ["host1:2222", "host2:2222"]' in str(error.value)


def test_what_tensorflow_cannot_do_on_several_devices_is_refused(config):
  config.trainer_options.jit_compile = True
  distribution.check(config, Replicas(1))
  with pytest.raises(ValueError, match='jit_compile and .*use_sync_batchnorm cannot be combined'):
    distribution.check(config, Replicas(2))
  config.trainer_options.solver_options.use_sync_batchnorm = False
  distribution.check(config, Replicas(2))


def test_the_batch_is_shared_by_replicas_and_accumulation_steps(config):
  config.train_dataset_options.batch_size = 24
  assert distribution.per_replica_batch(Replicas(4), config) == 6
  config.trainer_options.gradient_accumulation_steps = 3
  assert distribution.per_replica_batch(Replicas(4), config) == 2
  with pytest.raises(ValueError, match='batch_size is 24 and 5 devices with 3 '
                     'gradient_accumulation_steps share it; make it a multiple of 15'):
    distribution.per_replica_batch(Replicas(5), config)
