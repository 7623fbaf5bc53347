"""Inspects traced functions."""

from typing import Callable, Iterator, NamedTuple

import tensorflow as tf


class Traced(NamedTuple):
  """A tensor of a traced function.

  Attributes:
    name: Its function, node and operation.
    shape: What tracing knows of its shape.
    elements: How many it has at least: a dimension that only values tell counts as 1, and so
      does a whole list of tensors.
  """
  name: str
  shape: tf.TensorShape
  elements: int


def tensors(function: Callable, *specs) -> Iterator[Traced]:
  """Traces a function of tensors and runs nothing.

  Args:
    function: Takes tensors.
    *specs: tf.TensorSpecs of its arguments, or nested structures of them.

  Yields:
    Every tensor in its graph and in the functions that this calls: branches, loops, compiled
    parts.
  """
  traced = tf.function(function, autograph=False).get_concrete_function(*specs)
  graph = traced.graph.as_graph_def(add_shapes=True)
  bodies = [('', graph.node)] + [(f.signature.name, f.node_def) for f in graph.library.function]
  for body, nodes in bodies:
    for node in nodes:
      for proto in node.attr['_output_shapes'].list.shape:
        shape = tf.TensorShape(proto)
        yield Traced(f'{body}/{node.name} ({node.op})', shape, _elements(shape))


def _elements(shape: tf.TensorShape) -> int:
  total = 1
  for size in shape.as_list() if shape.rank else ():
    total *= 1 if size is None else size
  return total
