"""Panoptic quality as DeepLab2's own Keras metric computes it, for comparison with its tables.

The default everywhere else is the definition of panopticapi. DeepLab2's differs in what its label
maps cannot represent, and usually gives slightly higher scores:

- A crowd is void for every class, and is excluded from the union of a match.
- A stuff class is one segment per image, however many the prediction lists.
- Areas are counted in the maps; areas stated by the ground truth are not read.
"""

from typing import Any, Dict, Iterable, Mapping

from deeplab_tf.classes import DatasetInfo
from deeplab_tf.metrics import overlap, panoptic_quality
from deeplab_tf.metrics.panoptic_quality import Matching, Segment

_VOID = 0


class DeepLab2PanopticQuality(panoptic_quality.PanopticQuality):
  """PanopticQuality by DeepLab2's definition, in float64 (DeepLab2 uses float32)."""

  def __init__(self, categories: Iterable[Any]):
    """Starts at zero.

    Args:
      categories: See PanopticQuality.
    """
    super().__init__(categories)
    self._stuff = frozenset(category for category, isthing in zip(self.category_ids, self._isthing)
                            if not isthing)

  def result(self) -> Dict[str, Any]:
    """Returns the scores like PanopticQuality.result.

    'All' also has DeepLab2's 'tp', 'fn' and 'fp', the means over the classes. 'Things' and
    'Stuff', which DeepLab2 does not report, are averages over the same counts.
    """
    result = super().result()
    classes = result['per_class'].values()
    for name in ('tp', 'fn', 'fp'):
      result['All'][name] = (sum(scores[name] for scores in classes) / len(classes)
                             if classes else None)
    return result

  def _id(self, label: int, known: Mapping[int, Segment], dataset_info: DatasetInfo) -> int:
    # Pixels of the ignored class with another instance number are not void, but are in no segment.
    return _VOID if label == dataset_info.void_label else label + 1

  def _match(self, overlaps: overlap.Overlaps, truths: Mapping[int, Segment],
             predictions: Mapping[int, Segment]) -> Matching:
    names = []
    kept = []
    predictions = {number: prediction._replace(iscrowd=False)
                   for number, prediction in predictions.items()}
    for segments in (truths, predictions):
      first_of: Dict[int, int] = {}
      renamed = {}
      for segment in segments.values():
        renamed[segment.id] = segment.id
        # A crowd becomes void below, so it must not be merged with segments that are no crowd.
        if segment.category_id in self._stuff and not segment.iscrowd:
          renamed[segment.id] = first_of.setdefault(segment.category_id, segment.id)
      names.append(renamed)
      kept.append({number: segments[number]._replace(area=None, iscrowd=False)
                   for number in renamed.values()})
    for segment in truths.values():
      if segment.iscrowd:
        names[0][segment.id] = _VOID
        del kept[0][segment.id]
    renamed = overlaps.renamed(*(lambda value, table=table: table.get(value, value)
                                 for table in names))
    drawn = {truth for truth, _ in renamed.pixels}
    return panoptic_quality.match_overlaps(
        renamed, {number: segment for number, segment in kept[0].items() if number in drawn},
        kept[1])
