"""Top-1 and top-5 accuracy of image classification."""

import numpy as np

# Scores by their number of guesses.
_GUESSES = {'top1': 1, 'top5': 5}
SCORES = (*_GUESSES, 'n')


class TopKAccuracy:
  """Counts images whose class is among the first one or five guesses."""

  def __init__(self):
    self._images = 0
    self._right = dict.fromkeys(_GUESSES, 0)

  def update(self, class_index: np.ndarray, guesses: np.ndarray) -> None:
    """Takes in images.

    Args:
      class_index: int [images], their classes.
      guesses: int [images, k], class indices, the most probable first. With fewer than five
        classes in all, k may be their number, and top-5 is always 1.
    """
    right = np.asarray(guesses) == np.asarray(class_index)[:, None]
    self._images += len(right)
    for name, count in _GUESSES.items():
      self._right[name] += int(right[:, :count].any(1).sum())

  def counts(self) -> np.ndarray:
    """Returns float64 [3]: images right at the first and by the fifth guess, and all images.

    Counts of several can be added.
    """
    return np.array([*self._right.values(), self._images], np.float64)

  def set_counts(self, counts: np.ndarray) -> None:
    """Continues from other counts."""
    *right, images = (int(count) for count in counts)
    self._right, self._images = dict(zip(_GUESSES, right)), images

  def result(self) -> dict:
    """Returns 'top1' and 'top5' in [0, 1], None without images, and 'n', the images."""
    return {**{name: right / self._images if self._images else None
               for name, right in self._right.items()}, 'n': self._images}


def format_result(result: dict) -> str:
  """Returns a line for people."""
  scores = ', '.join(f'{name.replace("top", "top-")} '
                     + ('n/a' if result[name] is None else f'{100 * result[name]:.2f} %')
                     for name in _GUESSES)
  return f'{scores} of {result["n"]} images'
