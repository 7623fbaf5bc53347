"""Counts parameters and multiply-adds of a network without running it.

As in papers, multiply-adds are those of convolutions, matrix products and einsums at inference with
batch size 1, without normalization, activations and interpolation. Bilinear resizing is implemented
as a matrix product with a constant. No learned operation has a constant operand, so products with
constants are not counted.
"""

import math
from typing import NamedTuple, Optional, Sequence

import tensorflow as tf

from deeplab_tf import models
from deeplab_tf.architecture import TargetForm
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.pixel_decoders.aspp_decoder import ASPPDecoder
from deeplab_tf.user_errors import ConfigError

_PRODUCTS = ('MatMul', 'BatchMatMul', 'BatchMatMulV2', 'BatchMatMulV3')
# Operations whose output is constant if their input is.
_TRANSPARENT = ('Identity', 'Cast', 'Reshape', 'Transpose', 'ExpandDims', 'Squeeze')


class Part(NamedTuple):
  """Counts for a part of a model or for a whole model.

  Attributes:
    parameters: Number of parameters in all variables.
    trainable_parameters: Number of trainable parameters.
    inference_parameters: Number of trainable parameters used at inference, as reported in papers.
    madds: Number of multiply-adds at inference.
  """
  parameters: int = 0
  trainable_parameters: int = 0
  inference_parameters: int = 0
  madds: int = 0


class Summary(NamedTuple):
  """Counts for a model and its parts.

  Attributes:
    total: Counts for the whole model.
    by_part: Name of an attribute of the model -> counts for that part.
    input_size: Height and width of the input for which multiply-adds are counted.
    projected_parameters: For center models, the number of trainable parameters of the backbone and
      of the decoder layers that project its features (ASPP or its 1x1 convolution, if any, and the
      low-level projections, without their batch norms). For DeepLab2's Axial-DeepLabs it equals
      the paper's tables. None for other models.
  """
  total: Part
  by_part: dict[str, Part]
  input_size: tuple[int, int]
  projected_parameters: Optional[int] = None


def summarize(config, input_size: Optional[Sequence[int]] = None) -> Summary:
  """Builds the model of a config and counts its parameters and multiply-adds.

  Args:
    config: ExperimentOptions.
    input_size: Height and width of the input; None for the evaluation crop size.

  Raises:
    ValueError: No size is given, and the config has no evaluation crop size.
  """
  size = tuple(input_size or config.eval_dataset_options.crop_size)
  if len(size) != 2:
    raise ConfigError('eval_dataset_options.crop_size is not set: give --input_size=HxW')
  architecture = models.architecture(config)
  # In a graph that never runs, variables have no values and take no time or memory.
  with tf.Graph().as_default() as graph:
    model = architecture.build(config, catalog.from_config(config))
    used = {id(v) for v in architecture.inference_variables(model)}
    model(tf.compat.v1.placeholder(tf.float32, [1, *size, 3]), training=False)
  madds, training_only = _madds_by_part(model, used, graph)
  by_part = {}
  for name, variables in _variables_by_part(model).items():
    trainable = [v for v in variables if v.trainable]
    by_part[name] = Part(_numbers(variables), _numbers(trainable),
                         _numbers(v for v in trainable if id(v) in used),
                         0 if name in training_only else madds.get(name, 0))
  # Operations of the model outside of its parts.
  if madds.get('', 0):
    by_part['other'] = Part(madds=madds[''])
  total = Part(*(sum(values) for values in zip(*by_part.values())))
  has_centers = architecture.target_form is TargetForm.CENTER
  projected = _projected_parameters(model) if has_centers else None
  return Summary(total, by_part, size, projected)


def count_madds(graph: tf.Graph) -> dict[str, int]:
  """Returns operation name -> multiply-adds of a graph with static shapes.

  Raises:
    ValueError: A shape is not static.
  """
  counts = {}
  for operation in graph.get_operations():
    count = _madds(operation)
    if count:
      counts[operation.name] = count
  return counts


def _madds(operation: tf.Operation) -> int:
  if operation.type == 'Conv2D':
    kernel = _shape(operation.inputs[1])
    return math.prod(_shape(operation.outputs[0])) * math.prod(kernel[:3])
  if operation.type == 'DepthwiseConv2dNative':
    kernel = _shape(operation.inputs[1])
    return math.prod(_shape(operation.outputs[0])) * math.prod(kernel[:2])
  if operation.type == 'Einsum':
    return _einsum_madds(operation)
  if operation.type in _PRODUCTS and not any(_is_constant(x) for x in operation.inputs):
    transposed = operation.get_attr(
        'transpose_a' if operation.type == 'MatMul' else 'adj_x')
    summed = _shape(operation.inputs[0])[-2 if transposed else -1]
    return math.prod(_shape(operation.outputs[0])) * summed
  return 0


def _einsum_madds(operation: tf.Operation) -> int:
  """Returns the product of the sizes of all indices."""
  terms = operation.get_attr('equation').decode().split('->')[0].split(',')
  if any('.' in term for term in terms):
    raise ValueError(f'{operation.name}: an einsum with an ellipsis cannot be counted')
  sizes = {}
  for term, operand in zip(terms, operation.inputs):
    sizes.update(zip(term, _shape(operand)))
  return math.prod(sizes.values()) if len(terms) > 1 else 0


def _shape(tensor: tf.Tensor) -> list[int]:
  if not tensor.shape.is_fully_defined():
    raise ValueError(f'{tensor.name}: the shape {tensor.shape} is not known; trace with a static '
                     'input')
  return tensor.shape.as_list()


def _is_constant(tensor: tf.Tensor) -> bool:
  operation = tensor.op
  while operation.type in _TRANSPARENT:
    operation = operation.inputs[0].op
  return operation.type == 'Const'


# --- Parts ------------------------------------------------------------------------------------


def _madds_by_part(model, used, graph):
  """Returns part -> multiply-adds ('' for the rest), and the parts not used at inference."""
  counts = count_madds(graph)
  parts = _parts(model)
  # Keras names the operations of a layer `model name/layer name/...`.
  names = {layer.name: part for part, layer in parts.items()}
  madds = {}
  for name, count in counts.items():
    part = next((names[scope] for scope in name.split('/')[:2] if scope in names), '')
    madds[part] = madds.get(part, 0) + count
  training_only = {part for part, layer in parts.items() if layer.trainable_variables
                   and not any(id(v) in used for v in layer.trainable_variables)}
  return madds, training_only


def _parts(model) -> dict[str, keras.layers.Layer]:
  return {name: value for name, value in vars(model).items()
          if isinstance(value, keras.layers.Layer) and not name.startswith('_')}


def _variables_by_part(model) -> dict[str, list[tf.Variable]]:
  """Returns attribute of the model -> its variables, with each variable only once."""
  parts, seen = {}, set()
  for name, value in vars(model).items():
    if name.startswith('_') or not isinstance(value, (tf.Variable, keras.layers.Layer)):
      continue
    variables = [value] if isinstance(value, tf.Variable) else value.variables
    new = [v for v in variables if id(v) not in seen]
    seen.update(id(v) for v in new)
    if new:
      parts[name] = new
  return parts


def _projected_parameters(model) -> int:
  """Returns `projected_parameters` of Summary."""
  decoders = [layer for layer in _parts(model).values() if isinstance(layer, ASPPDecoder)]
  layers = [layer for decoder in decoders for layer in (decoder.aspp, *decoder.low_level)]
  kernels = [variable for layer in layers if layer is not None
             for variable in layer.trainable_variables if variable.shape.rank > 1]
  return _numbers(model.backbone.trainable_variables) + _numbers(kernels)


def _numbers(variables) -> int:
  return sum(math.prod(v.shape) for v in variables)
