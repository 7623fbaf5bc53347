"""Learning rates against numpy."""

import json

import numpy as np
import pytest
import shared
import tensorflow as tf

from deeplab_tf.protos import trainer_pb2
from deeplab_tf.training import schedules


def _solver(**fields):
  defaults = {'base_learning_rate': 0.5, 'training_number_of_steps': 100}
  return trainer_pb2.SolverOptions(**{**defaults, **fields})


def _rates(schedule, steps):
  return np.array([float(schedule(tf.constant(step, tf.int64))) for step in steps])


def test_poly_falls_from_base_to_end_and_stays_there():
  schedule = schedules.build(_solver(poly_learning_power=0.9, poly_end_learning_rate=0.1))
  steps = np.array([0, 1, 50, 99, 100, 150])
  expected = 0.4 * (1 - np.minimum(steps, 100) / 100)**0.9 + 0.1
  np.testing.assert_allclose(_rates(schedule, steps), expected, rtol=1e-5)


def test_cosine_falls_from_base_to_zero():
  schedule = schedules.build(_solver(learning_policy='cosine'))
  steps = np.array([0, 25, 50, 100, 120])
  expected = 0.25 * (1 + np.cos(np.pi * np.minimum(steps, 100) / 100))
  np.testing.assert_allclose(_rates(schedule, steps), expected, atol=1e-7)


@pytest.mark.parametrize('policy', ['poly', 'cosine'])
def test_warmup_is_linear_to_base_then_the_schedule_at_the_unshifted_step(policy):
  plain = schedules.build(_solver(learning_policy=policy))
  warm = schedules.build(_solver(learning_policy=policy, warmup_steps=10))
  np.testing.assert_allclose(_rates(warm, range(10)), 0.5 * np.arange(10) / 10, rtol=1e-6)
  np.testing.assert_array_equal(_rates(warm, [10, 11, 60]), _rates(plain, [10, 11, 60]))


def test_multiplier_scales_the_base_but_not_the_end():
  schedule = schedules.build(_solver(poly_end_learning_rate=0.01, warmup_steps=10), 0.1)
  np.testing.assert_allclose(_rates(schedule, [5, 100]), [0.025, 0.01], rtol=1e-6)


def test_warmup_survives_its_config():
  warm = schedules.build(_solver(warmup_steps=10))
  again = schedules.LinearWarmup.from_config(warm.get_config())
  np.testing.assert_array_equal(_rates(again, [3, 30]), _rates(warm, [3, 30]))


def test_unknown_policy_lists_those_there_are():
  with pytest.raises(ValueError, match='"linear".*"poly", "cosine", "step"'):
    schedules.build(_solver(learning_policy='linear'))


def test_steps_multiply_the_rate_from_each_of_them_on():
  schedule = schedules.build(_solver(learning_policy='step', decay_steps=[10, 30],
                                     step_decay_rate=0.2, warmup_steps=5), 0.5)
  np.testing.assert_allclose(_rates(schedule, [1, 5, 9, 10, 29, 30, 99]),
                             [0.05, 0.25, 0.25, 0.05, 0.05, 0.01, 0.01], rtol=1e-6)
  for steps in ([], [30, 10], [10, 10]):
    with pytest.raises(ValueError, match='decay_steps is .*ascending'):
      schedules.build(_solver(learning_policy='step', decay_steps=steps))


@pytest.mark.parity
@pytest.mark.parametrize('name', ['multistep_lr', 'poly_lr'])
def test_rates_of_each_step_are_mask2formers(name):
  recorded = json.loads(shared.path('parity', 'mask2former', 'preprocess.json').read_text())[name]
  fields = {'base_learning_rate': recorded['base_lr'],
            'training_number_of_steps': recorded['max_iter']}
  if name == 'multistep_lr':
    # The released schedule has a warm-up with factor 1, which changes nothing.
    assert recorded['warmup_factor'] == 1
    fields.update(learning_policy='step', decay_steps=recorded['steps'],
                  step_decay_rate=recorded['gamma'])
  else:
    fields.update(learning_policy='poly', poly_learning_power=recorded['power'],
                  poly_end_learning_rate=recorded['constant_ending'])
  schedule = schedules.build(_solver(**fields))
  steps = [int(step) for step in recorded['lr_at']]
  np.testing.assert_allclose(_rates(schedule, steps), list(recorded['lr_at'].values()), rtol=2e-4)
  # 1 - step / steps is rounded to float32, which shows only in the last steps.
  early = [step for step in steps if step < 0.9 * recorded['max_iter']]
  np.testing.assert_allclose(_rates(schedule, early),
                             [recorded['lr_at'][str(step)] for step in early], rtol=1e-6)
