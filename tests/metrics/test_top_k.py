"""Top-1 and top-5 accuracy against numpy."""

import numpy as np
import pytest

from deeplab_tf.metrics import top_k


@pytest.mark.parametrize('classes', [20, 3])
def test_accuracy_is_the_share_of_images_whose_class_is_among_the_first_guesses(classes):
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(200, classes)), rng.integers(0, classes, 200)
  ranks = (logits > logits[np.arange(200), labels][:, None]).sum(1)
  guesses = np.argsort(-logits, 1)[:, :5]
  metric = top_k.TopKAccuracy()
  for part in np.array_split(np.arange(200), 7):
    metric.update(labels[part], guesses[part])
  assert metric.result() == {'top1': (ranks < 1).mean(), 'top5': (ranks < 5).mean(), 'n': 200}


def test_counts_of_workers_add_up():
  one, two, both = (top_k.TopKAccuracy() for _ in range(3))
  one.update(np.array([1, 2]), np.array([[1, 0], [0, 1]]))
  two.update(np.array([0]), np.array([[2, 0]]))
  both.merge_bytes(one.to_bytes())
  both.merge(two)
  assert both.result() == {'top1': 1 / 3, 'top5': 2 / 3, 'n': 3}
  assert top_k.format_result(both.result()) == 'top-1 33.33 %, top-5 66.67 % of 3 images'


def test_without_images_there_is_no_accuracy():
  result = top_k.TopKAccuracy().result()
  assert result == {'top1': None, 'top5': None, 'n': 0}
  assert top_k.format_result(result) == 'top-1 n/a, top-5 n/a of 0 images'
