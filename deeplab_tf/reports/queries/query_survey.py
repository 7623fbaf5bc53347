"""Goes through a data set with a network: running sums over all images, some kept for pictures."""

from typing import Callable, Iterable, NamedTuple, Optional

import numpy as np

from deeplab_tf.reports.queries.analyzed_network import AnalyzedImage, AnalyzedNetwork
from deeplab_tf.reports.queries.query_statistics import QueryStatistics, fired
from deeplab_tf.structures import EvaluationBatch
from deeplab_tf.user_errors import DataError

# Images with fewer masks show little: they are pictured only where there are no others.
_MASKS_OF_A_PICTURE = 4


class Picture(NamedTuple):
  """An image that is shown.

  Attributes:
    name: The file's, without extension.
    found: What the network makes of it.
  """
  name: str
  found: AnalyzedImage


class Survey(NamedTuple):
  """What was found.

  Attributes:
    statistics: Of the queries, over all images.
    memory_share: float64 [heads], mean share of the attention of the queries that fire which goes
      to the memory; None for a model without dual-path layers or where no query fires.
    pictures: The images kept.
  """
  statistics: QueryStatistics
  memory_share: Optional[np.ndarray]
  pictures: list[Picture]


def survey(network: AnalyzedNetwork, samples: Iterable[EvaluationBatch], num_pictures: int,
           progress: Callable[[Iterable], Iterable] = iter) -> Survey:
  """Runs the network once on each image.

  Args:
    network: The network.
    samples: Batches of one image.
    num_pictures: Images to keep: the first with at least four masks, then the first of the rest.
    progress: Wraps the loop, e.g. in a bar.

  Raises:
    ValueError: There is no image.
  """
  statistics = QueryStatistics(network.num_queries, len(network.dataset_info.class_ids))
  shares, chosen, others = [], [], []
  for sample in progress(samples):
    found = network.on_prepared(sample.images, sample.resized_size[0])
    statistics.update(found.query_map, found.query_class)
    queries = fired(found.query_map)
    if 'memory_share' in found.raw and queries:
      shares.append((len(queries), found.raw['memory_share'][:, queries].sum(axis=1)))
    kept = chosen if len(queries) >= _MASKS_OF_A_PICTURE else others
    if len(kept) < num_pictures:
      kept.append(Picture(sample.name[0].numpy().decode(), found))
  if not statistics.images:
    raise DataError('eval_dataset_options: the data set holds no image; nothing to analyse')
  memory_share = None
  if shares:
    memory_share = (np.sum([total for _, total in shares], axis=0, dtype=np.float64)
                    / sum(count for count, _ in shares))
  return Survey(statistics, memory_share, (chosen + others)[:num_pictures])
