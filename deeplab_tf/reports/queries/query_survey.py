"""Runs a network on a dataset, collecting statistics and example images."""

from typing import Callable, Iterable, NamedTuple, Optional

import numpy as np

from deeplab_tf.data import label_maps
from deeplab_tf.reports.queries.analyzed_network import AnalyzedImage, AnalyzedNetwork
from deeplab_tf.reports.queries.proposals import ProposalSurvey
from deeplab_tf.reports.queries.query_statistics import QueryStatistics, fired
from deeplab_tf.structures import EvaluationBatch
from deeplab_tf.user_errors import DataError

# Images with fewer masks are used as examples only if there are not enough others.
_MASKS_OF_A_PICTURE = 4
_EXAMPLES_OF_PROPOSALS = 3


class Picture(NamedTuple):
  """An example image.

  Attributes:
    name: File name without extension.
    found: Output of the network.
  """
  name: str
  found: AnalyzedImage


class Survey(NamedTuple):
  """Results over a dataset.

  Attributes:
    statistics: Statistics of the queries over all images.
    memory_share: float64 [heads], mean fraction of the attention of firing queries to the memory;
      None if the model has no dual-path layers or no query fires.
    pictures: Example images.
    proposals: Recall of what the queries propose after decoder layers, without any layer if the
      model predicts masks after its last layer only.
  """
  statistics: QueryStatistics
  memory_share: Optional[np.ndarray]
  pictures: list[Picture]
  proposals: ProposalSurvey


def survey(network: AnalyzedNetwork, samples: Iterable[EvaluationBatch], num_pictures: int,
           progress: Callable[[Iterable], Iterable] = iter) -> Survey:
  """Runs the network once on each image.

  Args:
    network: Network to run.
    samples: Batches of one image.
    num_pictures: Number of example images: the first ones with at least four masks, then others.
    progress: Function that wraps the loop, e.g. in a progress bar.

  Raises:
    ValueError: There are no images.
  """
  statistics = QueryStatistics(network.num_queries, len(network.dataset_info.class_ids))
  proposals = ProposalSurvey(_EXAMPLES_OF_PROPOSALS)
  shares, chosen, others = [], [], []
  for sample in progress(samples):
    name = sample.name[0].numpy().decode()
    found = network.on_prepared(sample.images, sample.resized_size[0], sample.raw_size[0])
    if found.proposals:
      proposals.update(name, found.image, found.proposals,
                       label_maps.annotations(
                           label_maps.of_image(sample.label, 0, *sample.raw_size[0].numpy()),
                           network.dataset_info))
    statistics.update(found.query_map, found.query_class)
    queries = fired(found.query_map)
    if 'memory_share' in found.raw and queries:
      shares.append((len(queries), found.raw['memory_share'][:, queries].sum(axis=1)))
    kept = chosen if len(queries) >= _MASKS_OF_A_PICTURE else others
    if len(kept) < num_pictures:
      kept.append(Picture(name, found))
  if not statistics.images:
    raise DataError('eval_dataset_options: the dataset contains no images; there is nothing to '
                    'analyze')
  memory_share = None
  if shares:
    memory_share = (np.sum([total for _, total in shares], axis=0, dtype=np.float64)
                    / sum(count for count, _ in shares))
  return Survey(statistics, memory_share, (chosen + others)[:num_pictures], proposals)
