"""Measures the scoring of panoptic predictions from files."""

import statistics
import tempfile
import time

from deeplab_tf.benchmark import synthetic_maps
from deeplab_tf.benchmark.measuring import MeasureOptions, Results
from deeplab_tf.scoring import panoptic_files


def measure(options: MeasureOptions) -> Results:
  """Measures panoptic quality and boundary panoptic quality of pairs of PNGs, in one process.

  Args:
    options: Size of the maps, and the number of pairs as repeats.

  Returns:
    Seconds for each pair.
  """
  results = {}
  with tempfile.TemporaryDirectory() as folder:
    files = synthetic_maps.write(folder, options.repeats, options.input_size)
    for name, definition in (('pq', 'panopticapi'), ('boundary_pq', 'boundary')):
      seconds = []
      for _ in range(3):
        start = time.perf_counter()
        panoptic_files.panoptic_score(*files, definition=definition)
        seconds.append((time.perf_counter() - start) / options.repeats)
      median = statistics.median(seconds)
      results[name] = {'first_s': seconds[0], 'median_s': median, 'images_per_s': 1 / median}
  return results
