"""Counting in several processes."""

import functools
import os
import signal

import numpy as np
import pytest

from deeplab_tf.classes import Category, DatasetInfo
from deeplab_tf.metrics.panoptic_quality import PanopticQuality
from deeplab_tf.scoring import workers
from deeplab_tf.user_errors import UsageError, UserError

INFO = DatasetInfo(
    'made_up', tuple(Category(index, index, str(index), True, (0, 0, 0))
                     for index in range(3)), num_classes=3, ignore_label=255, label_divisor=10)


def _update(metric, seed):
  rng = np.random.default_rng(seed)
  truth = rng.integers(1, 29, (4, 5)).repeat(7, axis=0).repeat(6, axis=1)
  truth[truth % 10 == 0] = 2550
  metric.update_from_label_maps(truth, np.roll(truth, 1, 0), INFO)
  return seed


def _fail(metric, seed, error):
  if seed == 6:
    raise error


def _die(metric, seed):
  if seed == 6:
    os.kill(os.getpid(), signal.SIGKILL)


def _count(number):
  metric, progress = PanopticQuality(INFO.categories), []
  notes = workers.count(metric, _update, range(13), number, progress.append)
  assert notes == list(range(13)) and sum(progress) == 13
  return metric


@pytest.mark.parametrize('number', [2, 3])
def test_the_number_of_processes_changes_no_bit(number):
  alone, together = _count(1), _count(number)
  assert alone.true_positives.sum() > 20
  for name, counts in alone.state().items():
    np.testing.assert_array_equal(counts, together.state()[name])


@pytest.mark.parametrize('number', [1, 2])
def test_bad_input_keeps_its_line(number):
  update = functools.partial(_fail, error=UsageError('image 6 is bad'))
  with pytest.raises(ValueError, match='image 6 is bad') as error:
    workers.count(PanopticQuality(INFO.categories), update, range(13), number)
  assert isinstance(error.value, UserError)


def test_a_fault_is_no_bad_input():
  update = functools.partial(_fail, error=KeyError('fault'))
  with pytest.raises(KeyError, match='fault'):
    workers.count(PanopticQuality(INFO.categories), update, range(13), 2)


def test_a_process_that_dies_is_told():
  with pytest.raises(UsageError, match='a process died .* fewer than 2 workers'):
    workers.count(PanopticQuality(INFO.categories), _die, range(13), 2)


def test_nothing_to_count_and_no_worker():
  metric = PanopticQuality(INFO.categories)
  assert workers.count(metric, _update, [], 4) == []
  with pytest.raises(ValueError, match='workers is 0'):
    workers.count(metric, _update, [1], 0)
  assert 1 <= workers.default() <= 8
