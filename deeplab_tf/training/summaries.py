"""TensorBoard scalars, texts and pictures."""

import contextlib
import pathlib
from typing import Mapping, NamedTuple, Optional

import numpy as np
import tensorflow as tf
from google.protobuf import text_format

# Folders below the model directory, one curve each in TensorBoard.
TRAIN = 'train'
EVAL = 'eval'


def scalars_of(output: NamedTuple) -> dict:
  """Returns the scalars of a trainer.StepOutput by their TensorBoard tag."""
  scalars = {f'losses/{name}': value for name, value in output.losses.items()}
  scalars.update({f'statistics/{name}': value for name, value in output.statistics.items()})
  scalars.update({f'learning_rate/{name}': value
                  for name, value in output.learning_rates.items()})
  scalars['gradient_norm'] = output.gradient_norm
  return scalars


class Averages:
  """Means of scalars since they were last taken; values that are not finite do not count."""

  def __init__(self):
    self._sums = {}
    self._counts = {}

  def add(self, scalars: Mapping[str, float]) -> None:
    """Takes in the scalars of one step."""
    for name, value in scalars.items():
      if np.isfinite(value):
        self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._counts[name] = self._counts.get(name, 0) + 1

  def take(self) -> dict:
    """Returns the means by name and starts anew."""
    means = {name: total / self._counts[name] for name, total in self._sums.items()}
    self._sums, self._counts = {}, {}
    return means


class Writer:
  """Writes one TensorBoard run; the files are made at the first write."""

  def __init__(self, model_dir: str, run: str):
    """Initialises the writer.

    Args:
      model_dir: The model directory.
      run: TRAIN or EVAL.
    """
    self._folder = str(pathlib.Path(model_dir) / run)
    self._writer = None

  def scalars(self, scalars: Mapping[str, Optional[float]], step: int) -> None:
    """Writes scalars; None (not available) is left out."""
    with self._recording(step):
      for name, value in scalars.items():
        if value is not None:
          tf.summary.scalar(name, value)
    self.flush()

  def image(self, tag: str, image: np.ndarray, step: int) -> None:
    """Writes a picture, uint8 [height, width, 3]."""
    with self._recording(step):
      tf.summary.image(tag, image[None])

  def config(self, config, step: int) -> None:
    """Writes the experiment as text."""
    text = text_format.MessageToString(config)
    indented = '\n'.join('    ' + line for line in text.splitlines())
    with self._recording(step):
      tf.summary.text('config', indented)
    self.flush()

  def flush(self) -> None:
    """Makes what is written visible to TensorBoard."""
    if self._writer is not None:
      self._writer.flush()

  def close(self) -> None:
    """Writes out everything and closes the files."""
    if self._writer is not None:
      self._writer.close()
      self._writer = None

  @contextlib.contextmanager
  def _recording(self, step: int):
    if self._writer is None:
      self._writer = tf.summary.create_file_writer(self._folder)
    # Orbit switches summaries off around its inner loop.
    with self._writer.as_default(step), tf.summary.record_if(True):
      yield
