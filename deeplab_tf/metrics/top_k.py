"""Top-1 and top-5 accuracy of image classification."""

import numpy as np

from deeplab_tf.metrics import accumulator

# Score -> number of predicted classes that it considers.
_RANKS = {'top1': 1, 'top5': 5}
SCORES = (*_RANKS, 'n')


class TopKAccuracy(accumulator.Accumulator):
  """Counts images whose class is among the one or five most probable predictions."""

  def __init__(self):
    self.reset()

  def reset(self) -> None:
    """Resets all counts."""
    self._counts = np.zeros(len(_RANKS) + 1, np.int64)

  def update(self, class_index: np.ndarray, guesses: np.ndarray) -> None:
    """Adds a batch of images.

    Args:
      class_index: int [images], ground truth class indices.
      guesses: int [images, k], predicted class indices, the most probable first. If there are
        fewer than five classes, k may be their number, and top-5 is always 1.
    """
    right = np.asarray(guesses) == np.asarray(class_index)[:, None]
    found = [right[:, :count].any(1).sum() for count in _RANKS.values()]
    self._counts = self._counts + [*found, len(right)]

  def merge(self, other: 'TopKAccuracy') -> None:
    """Adds the counts of another accumulator."""
    self._counts = self._counts + other._counts

  def state(self) -> dict:
    """Returns 'counts', int64 [3]: top-1 correct images, top-5 correct images, all images."""
    return {'counts': self._counts}

  def set_state(self, state) -> None:
    """Restores a state that `state` returned."""
    self._counts = np.array(state['counts'])

  def result(self) -> dict:
    """Returns 'top1' and 'top5' in [0, 1] (None without images) and 'n', the number of images."""
    *right, images = self._counts.tolist()
    return {**{name: count / images if images else None
               for name, count in zip(_RANKS, right)}, 'n': images}


def format_result(result: dict) -> str:
  """Formats a result as one line of text."""
  scores = ', '.join(f'{name.replace("top", "top-")} '
                     + ('n/a' if result[name] is None else f'{100 * result[name]:.2f} %')
                     for name in _RANKS)
  return f'{scores} of {result["n"]} images'
