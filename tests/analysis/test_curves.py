"""Curves from event files."""

import pytest

from deeplab_tf.analysis import curves
from deeplab_tf.training import summaries


def _write(folder, run, scalars, step):
  writer = summaries.Writer(str(folder), run)
  writer.scalars(scalars, step)
  writer.close()


def test_written_scalars_are_read_and_a_restart_wins(tmp_path):
  assert not curves.has_events(str(tmp_path)) and curves.read(str(tmp_path)) == {}
  dice = 'statistics/matched_mask_dice'
  _write(tmp_path, summaries.TRAIN, {dice: 0.1, 'losses/total': 9.0}, 10)
  _write(tmp_path, summaries.TRAIN, {dice: 0.2}, 20)
  _write(tmp_path, summaries.TRAIN, {dice: 0.3}, 20)
  _write(tmp_path, summaries.TRAIN, {dice: float('nan')}, 30)
  _write(tmp_path, summaries.EVAL, {'All/pq': 0.5, 'All/sq': 0.6}, 20)
  assert curves.has_events(str(tmp_path))
  found = curves.read(str(tmp_path))
  assert set(found) == {dice, 'All/pq'}
  assert found[dice] == pytest.approx({10: 0.1, 20: 0.3})
  assert list(found[dice]) == [10, 20]


def test_what_stands_before_a_damaged_end_is_read(tmp_path):
  _write(tmp_path, summaries.EVAL, {'All/pq': 0.5}, 20)
  path = next((tmp_path / summaries.EVAL).iterdir())
  path.write_bytes(path.read_bytes() + b'half a record')
  assert curves.read(str(tmp_path)) == {'All/pq': {20: 0.5}}
