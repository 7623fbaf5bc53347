"""Interface of post-processing that knows which query each segment comes from."""

import abc
from typing import Sequence

import tensorflow as tf

from deeplab_tf.layers.resizing import ResizeRule
from deeplab_tf.layers.shapes import Dimension
from deeplab_tf.postprocessing.query_maps import QueryMaps
from deeplab_tf.structures import PanopticPrediction


class QueryPostprocessor(abc.ABC):
  """Callable from the raw outputs of a mask model to a PanopticPrediction.

  The analyses of queries (`reports.queries`) use `with_queries`. If the post-processing is not of
  this class, they use the most probable query of each pixel instead.

  Attributes:
    rule: Rule by which mask logits are resized.
  """
  rule: ResizeRule = 'aligned'

  def __call__(self, outputs: dict[str, tf.Tensor],
               output_size: Sequence[Dimension]) -> PanopticPrediction:
    """Post-processes a batch.

    Args:
      outputs: `mask_logits` [batch, h, w, queries] and `class_logits` [batch, queries,
        classes + 1] of the network.
      output_size: Height and width of the maps: the network's input size.
    """
    return self.with_queries(outputs, output_size)[0]

  @abc.abstractmethod
  def with_queries(self, outputs: dict[str, tf.Tensor],
                   output_size: Sequence[Dimension]) -> tuple[PanopticPrediction, QueryMaps]:
    """Post-processes a batch, and returns the query of each pixel as well."""
