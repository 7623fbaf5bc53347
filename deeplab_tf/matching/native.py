"""An assignment solver in TensorFlow ops with static shapes, compiled by XLA.

It uses the shortest augmenting path algorithm of Jonker and Volgenant ("A shortest augmenting path
algorithm for dense and sparse linear assignment problems", 1987) for all images of a batch at once.
Each loop iteration scans one row of every image, and images do not wait for each other.

All rows must be matched, each with a column. Rows are targets and columns are queries; in an image
with more valid targets than queries it is the other way around.
"""

from typing import NamedTuple

import tensorflow as tf

# Keeps the sum of costs along a path finite in float32.
_LARGEST_COST = 1e30


class _State(NamedTuple):
  """The state of the search in each image between two scans.

  Attributes:
    prices: float32 [batch, columns], the dual variables; 0 for free columns, else <= 0.
    owner: int32 [batch, columns], the row that a column is matched with, -1 if free.
    waiting: bool [batch, rows], the rows that are not matched yet.
    row: int32 [batch], the row to scan next.
    column: int32 [batch], the column through which `row` was reached, -1 if it starts a path.
    length: float32 [batch], the length of the path up to `row`.
    distance: float32 [batch, columns], the length of the shortest path to each column.
    previous: int32 [batch, columns], the last row on that path.
    scanned: bool [batch, columns], the columns whose rows were scanned.
  """
  prices: tf.Tensor
  owner: tf.Tensor
  waiting: tf.Tensor
  row: tf.Tensor
  column: tf.Tensor
  length: tf.Tensor
  distance: tf.Tensor
  previous: tf.Tensor
  scanned: tf.Tensor


# Always compiled, since the loop is a hundred times slower without XLA.
@tf.function(jit_compile=True, autograph=False)
def solve(costs: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
  """Assigns queries to targets; see deeplab_tf.matching.match.

  Args:
    costs: float32 [batch, queries, targets], with static numbers of queries and targets.
    valid: bool [batch, targets].

  Returns:
    int32 [batch, targets].
  """
  queries, targets = costs.shape[1:]
  costs = tf.where(tf.math.is_finite(costs), costs, 0.)
  costs = tf.clip_by_value(costs, -_LARGEST_COST, _LARGEST_COST)
  by_target = tf.transpose(costs, [0, 2, 1])
  real = tf.ones_like(costs[:, :, 0], tf.bool)
  if targets <= queries:
    owner = _assign_rows(by_target, valid, real)
    return _column_of_row(owner, targets)

  # Both orientations are padded to one square, and each image uses one of them.
  size = targets
  swapped = tf.reduce_sum(tf.cast(valid, tf.int32), axis=1) > queries
  real = tf.pad(real, [[0, 0], [0, size - queries]])
  by_target = tf.pad(by_target, [[0, 0], [0, 0], [0, size - queries]])
  by_query = tf.pad(costs, [[0, 0], [0, size - queries], [0, 0]])
  owner = _assign_rows(
      tf.where(swapped[:, tf.newaxis, tf.newaxis], by_query, by_target),
      tf.where(swapped[:, tf.newaxis], real, valid),
      tf.where(swapped[:, tf.newaxis], valid, real))
  return tf.where(swapped[:, tf.newaxis], owner, _column_of_row(owner, size))


def _column_of_row(owner: tf.Tensor, rows: int) -> tf.Tensor:
  """Turns the row of each column into the column of each row, both -1 if unmatched."""
  is_mine = tf.equal(owner[:, tf.newaxis], tf.range(rows)[tf.newaxis, :, tf.newaxis])
  column = tf.argmax(is_mine, axis=2, output_type=tf.int32)
  return tf.where(tf.reduce_any(is_mine, axis=2), column, -1)


def _assign_rows(costs: tf.Tensor, rows_valid: tf.Tensor, columns_valid: tf.Tensor) -> tf.Tensor:
  """Matches every valid row with a valid column, of which there are at least as many.

  Args:
    costs: float32 [batch, rows, columns], finite.
    rows_valid: bool [batch, rows].
    columns_valid: bool [batch, columns].

  Returns:
    int32 [batch, columns], the row of each column, -1 if none.
  """
  rows = costs.shape[1]
  # Each scan of a path adds a matched column to it, until a free one ends it.
  state, = tf.while_loop(
      lambda state: tf.reduce_any(state.waiting),
      lambda state: [_scan(costs, columns_valid, state)],
      [_start(costs, rows_valid)],
      maximum_iterations=rows * (rows + 1) // 2)
  return state.owner


def _start(costs: tf.Tensor, rows_valid: tf.Tensor) -> _State:
  """Returns the state with no matches, in which every image starts from its first valid row."""
  batch, columns = tf.shape(costs)[0], costs.shape[2]
  return _State(
      prices=tf.zeros([batch, columns]),
      owner=tf.fill([batch, columns], -1),
      waiting=rows_valid,
      row=tf.argmax(rows_valid, axis=1, output_type=tf.int32),
      column=tf.fill([batch], -1),
      length=tf.zeros([batch]),
      distance=tf.fill([batch, columns], costs.dtype.max),
      previous=tf.fill([batch, columns], -1),
      scanned=tf.fill([batch, columns], False))


def _scan(costs: tf.Tensor, columns_valid: tf.Tensor, state: _State) -> _State:
  """Extends the shortest path by one row, and augments along it when it reaches a free column."""
  never = costs.dtype.max
  columns = tf.range(costs.shape[2])
  active = tf.reduce_any(state.waiting, axis=1)
  start = tf.argmax(state.waiting, axis=1, output_type=tf.int32)

  # Distances through this row, whose matched column is at distance `length`.
  net = tf.gather(costs, state.row, batch_dims=1) - state.prices
  entered = tf.equal(state.column[:, tf.newaxis], columns)
  offset = tf.reduce_sum(tf.where(entered, net, 0.), axis=1) - state.length
  through = net - offset[:, tf.newaxis]
  closer = (through < state.distance) & columns_valid & ~state.scanned
  distance = tf.where(closer, through, state.distance)
  previous = tf.where(closer, state.row[:, tf.newaxis], state.previous)

  # The nearest column; among equally near ones a free one, which ends the path.
  reachable = tf.where(state.scanned, never, distance)
  length = tf.reduce_min(reachable, axis=1)
  nearest = tf.equal(reachable, length[:, tf.newaxis]) & columns_valid
  preference = tf.cast(nearest, tf.int32) * tf.where(state.owner < 0, 2, 1)
  column = tf.argmax(preference, axis=1, output_type=tf.int32)
  chosen = tf.equal(column[:, tf.newaxis], columns)
  row = tf.reduce_sum(tf.where(chosen, state.owner, 0), axis=1)

  ended = row < 0
  flip = ended & active
  again = ended[:, tf.newaxis]
  prices = tf.where(flip[:, tf.newaxis] & state.scanned,
                    state.prices + distance - length[:, tf.newaxis], state.prices)
  rows = tf.range(costs.shape[1])
  waiting = state.waiting & ~(flip[:, tf.newaxis] & tf.equal(start[:, tf.newaxis], rows))
  return _State(
      prices=prices,
      owner=_flip_path(state.owner, previous, column, start, flip),
      waiting=waiting,
      row=tf.where(ended, tf.argmax(waiting, axis=1, output_type=tf.int32), row),
      column=tf.where(ended, -1, column),
      length=tf.where(ended, 0., length),
      distance=tf.where(again, never, distance),
      previous=previous,
      scanned=(state.scanned | chosen) & ~again)


def _flip_path(owner: tf.Tensor, previous: tf.Tensor, column: tf.Tensor, start: tf.Tensor,
               flip: tf.Tensor) -> tf.Tensor:
  """Matches each column of the path that ends in `column` with the row before it, up to `start`."""
  columns = tf.range(owner.shape[1])

  def give(owner, column, flip):
    chosen = tf.equal(column[:, tf.newaxis], columns)
    row = tf.reduce_sum(tf.where(chosen, previous, 0), axis=1)
    given_up = tf.equal(owner, row[:, tf.newaxis])
    owner = tf.where(chosen & flip[:, tf.newaxis], row[:, tf.newaxis], owner)
    column = tf.argmax(given_up, axis=1, output_type=tf.int32)
    return owner, column, flip & tf.not_equal(row, start)

  return tf.while_loop(lambda owner, column, flip: tf.reduce_any(flip), give,
                       (owner, column, flip), maximum_iterations=owner.shape[1])[0]
