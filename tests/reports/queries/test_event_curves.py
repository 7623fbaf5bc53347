"""Curves from event files."""

import pytest

from deeplab_tf.reports.queries import event_curves
from deeplab_tf.training.reporting import summaries


def _write(folder, run, scalars, step):
  writer = summaries.Writer(str(folder), run)
  writer.scalars(scalars, step)
  writer.close()


def test_written_scalars_are_read_and_a_restart_wins(tmp_path):
  assert not event_curves.has_events(str(tmp_path)) and event_curves.read(str(tmp_path)) == {}
  dice = 'statistics/matched_mask_dice'
  _write(tmp_path, summaries.TRAIN, {dice: 0.1, 'losses/total': 9.0}, 10)
  _write(tmp_path, summaries.TRAIN, {dice: 0.2}, 20)
  _write(tmp_path, summaries.TRAIN, {dice: 0.3}, 20)
  _write(tmp_path, summaries.TRAIN, {dice: float('nan')}, 30)
  _write(tmp_path, summaries.EVAL, {'All/pq': 0.5, 'All/sq': 0.6}, 20)
  assert event_curves.has_events(str(tmp_path))
  found = event_curves.read(str(tmp_path))
  assert set(found) == {dice, 'All/pq'}
  assert found[dice] == pytest.approx({10: 0.1, 20: 0.3})
  assert list(found[dice]) == [10, 20]


def test_what_stands_before_a_corrupt_end_is_read(tmp_path):
  _write(tmp_path, summaries.EVAL, {'All/pq': 0.5}, 20)
  path = next((tmp_path / summaries.EVAL).iterdir())
  path.write_bytes(path.read_bytes() + b'half a record')
  assert event_curves.read(str(tmp_path)) == {'All/pq': {20: 0.5}}
