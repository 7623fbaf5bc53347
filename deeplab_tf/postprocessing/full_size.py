"""Predictions of single images at the size of their files."""

from typing import Any, Callable, NamedTuple, Protocol, Sequence, Union, runtime_checkable

import tensorflow as tf

from deeplab_tf.layers.resizing import ResizeRule, interpolation_matrix, resize_bilinear
from deeplab_tf.layers.shapes import Dimension, dimensions
from deeplab_tf.postprocessing import resize_back
from deeplab_tf.structures import PanopticPrediction


class FullSize(NamedTuple):
  """Sizes of an image: the network's input, the image inside of it, and the file.

  Attributes:
    input_size: Height and width of the network's input.
    resized_size: Height and width of the image inside the padding.
    raw_size: Height and width of the image's file.
    rule: Rule by which the image was resized.
  """
  input_size: Sequence[Dimension]
  resized_size: Union[tf.Tensor, Sequence[int]]
  raw_size: Union[tf.Tensor, Sequence[int]]
  rule: ResizeRule = 'aligned'

  def unstacked(self) -> 'FullSize':
    """Returns the sizes with each height and width for itself, also where they are one tensor."""
    sizes = (tf.unstack(size) if tf.is_tensor(size) else size for size in self[:3])
    return FullSize(*sizes, self.rule)


# Height and width of the maps, or the sizes that lead to those of the image file.
Size = Union[Sequence[Dimension], FullSize]


@runtime_checkable
class FullSizePostprocessor(Protocol):
  """Post-processing that makes its maps at the size of the file, from resized logits."""

  def at_full_size(self, outputs: dict[str, tf.Tensor],
                   full_size: FullSize) -> PanopticPrediction:
    """Post-processes images of the same sizes."""


def resizing_matrices(logits_size: Sequence[Dimension], full_size: FullSize,
                      rule: ResizeRule) -> list[tf.Tensor]:
  """Returns the matrices that resize logits to the size of the file.

  Logits are resized to the network's input, the padding is cut off, and the rest is resized to the
  file by the rule of the image. Both steps are linear, so one matrix does both without an
  intermediate map.

  Args:
    logits_size: Height h and width w of the logits.
    full_size: Sizes of the image.
    rule: Rule of the network, by which logits are resized to its input.

  Returns:
    float32 [raw height, h] for the rows and float32 [raw width, w] for the columns.
  """
  result = []
  for axis in range(2):
    to_input = interpolation_matrix(logits_size[axis], full_size.input_size[axis], rule)
    resized, raw = full_size.resized_size[axis], full_size.raw_size[axis]
    to_raw = interpolation_matrix(resized, raw, full_size.rule)
    result.append(tf.matmul(to_raw, to_input[:resized]))
  return result


def resize_function(logits: tf.Tensor, size: Size,
                    rule: ResizeRule) -> Callable[[tf.Tensor], tf.Tensor]:
  """Returns a function that resizes some of the logits, [h, w, n], to the size of the maps.

  Args:
    logits: float32 [h, w, queries].
    size: Size of the maps.
    rule: Rule of the network, by which logits are resized to its input.
  """
  if not isinstance(size, FullSize):
    return lambda x: resize_bilinear(x[None], size, rule)[0]
  height, width, _ = dimensions(logits)
  rows, columns = resizing_matrices((height, width), size, rule)

  def resize(x):
    wide = tf.matmul(rows, tf.reshape(x, [height, -1]))
    return tf.matmul(columns, tf.reshape(wide, [dimensions(rows)[0], width, dimensions(x)[2]]))

  return resize


def predict(postprocess: Callable[..., Any], outputs: dict[str, tf.Tensor],
            full_size: FullSize) -> PanopticPrediction:
  """Post-processes one image at the size of its file.

  Args:
    postprocess: Post-processing. Maps of one that is not a FullSizePostprocessor are made at the
      size of the network's input and then resized by nearest-neighbor interpolation; segments that
      vanish by this are still listed.
    outputs: Raw outputs of the network, batch of one.
    full_size: Sizes of the image.

  Returns:
    Maps [1, *raw_size].
  """
  if isinstance(postprocess, FullSizePostprocessor):
    return postprocess.at_full_size(outputs, full_size)
  return resize_back.to_raw_size(postprocess(outputs, full_size.input_size),
                                 full_size.resized_size, full_size.raw_size, full_size.rule)
