"""Weights of another program: copied, joined or split, and each accounted for."""

import numpy as np
import pytest

from deeplab_tf.checkpoints import origins, reference
from deeplab_tf.checkpoints.origins import Origin, Piece
from deeplab_tf.compat import keras
from deeplab_tf.user_errors import CheckpointError

IN, OUT = 3, 4


class _Model(keras.layers.Layer):
  """Has variables of given names and shapes."""

  def __init__(self, shapes):
    super().__init__()
    for name, shape in shapes.items():
      setattr(self, name, self.add_weight(name, shape, initializer='zeros'))


class _Reference:
  """Knows the origins of variables by their paths."""

  def __init__(self, known, lacks=()):
    self._known = known
    self._lacks = lacks

  def weight_names(self, names):
    return {name: name.removeprefix('module.') for name in names if name != 'step'}

  def origins(self, path, model):
    del model
    return self._known[path]

  def may_lack(self, path, names):
    del names
    return path in self._lacks


def _array(*shape):
  return np.random.default_rng(len(shape) + sum(shape)).normal(size=shape).astype(np.float32)


def _set(shapes, known, weights, lacks=()):
  model = _Model(shapes)
  account = reference.set_variables(model, _Reference(known, lacks), weights, 'other')
  return model, account


def _error(shapes, known, weights):
  """Returns the message of weights that do not fit, without its beginning."""
  model = _Model(shapes)
  with pytest.raises(CheckpointError) as error:
    reference.set_variables(model, _Reference(known), weights, 'other')
  assert all(not variable.numpy().any() for variable in model.variables)
  beginning = 'the other weights do not fit the model: '
  assert str(error.value).startswith(beginning)
  return str(error.value)[len(beginning):]


# A joint projection of queries, keys and values, by its own weights and by those of each.
_JOINT = {'qkv_kernel': (IN, 3 * OUT), 'qkv_bias': (3 * OUT,)}
_BY_JOINT = {'qkv_kernel': [origins.whole('in_proj_weight', np.transpose)],
             'qkv_bias': [origins.whole('in_proj_bias')]}
_BY_EACH = {
    'qkv_kernel': [origins.joined(tuple(f'{n}_proj.weight' for n in 'qkv'), np.transpose)],
    'qkv_bias': [origins.joined(tuple(f'{n}_proj.bias' for n in 'qkv'))],
}
_EACH = {f'{n}_proj.{kind}': values for i, n in enumerate('qkv') for kind, values in (
    ('weight', i + _array(OUT, IN)), ('bias', i + _array(OUT)))}


def test_separate_tensors_are_joined_into_one_variable():
  model, account = _set(_JOINT, _BY_EACH, _EACH)
  x = _array(5, IN)
  # PyTorch's linear layer: x times the transposed weight, plus the bias.
  expected = [x @ _EACH[f'{n}_proj.weight'].T + _EACH[f'{n}_proj.bias'] for n in 'qkv']
  np.testing.assert_allclose(x @ model.qkv_kernel.numpy() + model.qkv_bias.numpy(),
                             np.concatenate(expected, -1), rtol=1e-5)
  assert account.used['qkv_bias'] == ('q_proj.bias', 'k_proj.bias', 'v_proj.bias')
  assert account.lines() == ['  2 variables from 6 weights']


def test_one_tensor_is_cut_into_several_variables():
  weight, bias = _array(3 * OUT, IN), _array(3 * OUT)
  names = ('query', 'key', 'value')
  known = {f'{name}_{kind}': [origins.part(f'in_proj_{theirs}', i, 3, np.transpose)]
           for i, name in enumerate(names)
           for kind, theirs in (('kernel', 'weight'), ('bias', 'bias'))}
  shapes = {f'{name}_{kind}': shape for name in names
            for kind, shape in (('kernel', (IN, OUT)), ('bias', (OUT,)))}
  model, account = _set(shapes, known, {'in_proj_weight': weight, 'in_proj_bias': bias})
  x = _array(5, IN)
  expected = np.split(x @ weight.T + bias, 3, axis=-1)
  for name, value in zip(names, expected):
    found = x @ getattr(model, f'{name}_kernel').numpy() + getattr(model, f'{name}_bias').numpy()
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
  assert account.used['key_bias'] == ('in_proj_bias',)
  assert account.lines() == ['  6 variables from 2 weights']


def test_parts_are_joined_again_in_any_order():
  weight = _array(3 * OUT, IN)
  known = {'query': [origins.part('w', 0, 3)],
           'value_key': [Origin((Piece('w', 2, 3), Piece('w', 1, 3)))]}
  model, _ = _set({'query': (OUT, IN), 'value_key': (2 * OUT, IN)}, known, {'w': weight})
  np.testing.assert_array_equal(model.query, weight[:OUT])
  np.testing.assert_array_equal(model.value_key, np.concatenate([weight[2 * OUT:],
                                                                 weight[OUT:2 * OUT]]))


def test_another_axis_can_be_joined_and_cut():
  first, second = _array(2, 3), _array(2, 5)
  known = {'both': [origins.joined(('a', 'b'), axis=1)],
           'left': [origins.part('c', 0, 2, axis=-1)],
           'right': [origins.part('c', 1, 2, axis=-1)]}
  model, _ = _set({'both': (2, 8), 'left': (2, 2), 'right': (2, 2)}, known,
                  {'a': first, 'b': second, 'c': _array(2, 4)})
  np.testing.assert_array_equal(model.both, np.concatenate([first, second], 1))
  np.testing.assert_array_equal(model.right, _array(2, 4)[:, 2:])


def test_a_transformation_permutes_classes_and_ones_in_a_shape_do_not_count():
  order = [2, 0, 1]
  known = {'class_bias': [origins.whole('bias', lambda value: value[order])],
           'gamma': [origins.whole('scale')]}
  model, _ = _set({'class_bias': (3,), 'gamma': (4,)}, known,
                  {'bias': np.array([0., 1, 2], np.float32), 'scale': _array(1, 4, 1)})
  assert model.class_bias.numpy().tolist() == [2, 0, 1]
  np.testing.assert_array_equal(model.gamma, _array(1, 4, 1)[0, :, 0])


@pytest.mark.parametrize('weights', [
    _EACH, {'in_proj_weight': _array(3 * OUT, IN), 'in_proj_bias': _array(3 * OUT)}])
def test_of_several_origins_the_one_whose_tensors_are_there_is_taken(weights):
  known = {path: _BY_JOINT[path] + _BY_EACH[path] for path in _JOINT}
  _, account = _set(_JOINT, known, weights)
  assert {name for names in account.used.values() for name in names} == set(weights)


def test_what_is_no_weight_and_what_may_lack_is_told():
  known = {**_BY_JOINT, 'head': [origins.whole('fc')]}
  weights = {'module.in_proj_weight': _array(3 * OUT, IN), 'in_proj_bias': _array(3 * OUT),
             'step': np.array(3)}
  _, account = _set({**_JOINT, 'head': (2,)}, known, weights, lacks=('head',))
  assert account.skipped == ['step'] and account.initialized == ['head']
  assert account.lines()[1:] == ['  skipped, no weights of this model: step',
                                 '  not in the checkpoint, as initialized: head']


def test_one_error_lists_what_is_missing_unknown_and_of_the_wrong_shape():
  weights = {**_EACH, 'other.weight': _array(2), 'v_proj.bias': _array(OUT + 1)}
  del weights['k_proj.weight']
  known = {path: _BY_JOINT[path] + _BY_EACH[path] for path in _JOINT}
  assert _error(_JOINT, known, weights) == (
      '1 missing: k_proj.weight (for qkv_kernel); '
      '3 unknown: other.weight, q_proj.weight, v_proj.weight; '
      '1 of the wrong shape: q_proj.bias + k_proj.bias + v_proj.bias: [13] instead of [12] '
      '(for qkv_bias)')
  assert _error(_JOINT, known, {}) == (
      '2 missing: in_proj_weight (for qkv_kernel), in_proj_bias (for qkv_bias)')


@pytest.mark.parametrize('origin,tensors,found', [
    (origins.part('w', 0, 3), {'w': (7, 2)}, 'w (part 1 of 3): [7, 2]'),
    (origins.part('w', 0, 3), {'w': ()}, 'w (part 1 of 3): []'),
    (origins.joined(('a', 'b')), {'a': (2, 3), 'b': (2, 4)}, 'a + b: [2, 3] + [2, 4]'),
    (origins.whole('w', lambda value: value.transpose(2, 3, 1, 0)), {'w': (2, 2)}, 'w: [2, 2]'),
    (origins.whole('w', lambda value: value[:, :1]), {'w': (9,)}, 'w: [9]'),
    (origins.whole('w', lambda value: value[[0, 5]]), {'w': (3,)}, 'w: [3]'),
], ids=['cut', 'cut of a scalar', 'joined', 'transposed', 'sliced', 'permuted'])
def test_shapes_that_a_transformation_does_not_take_are_named(origin, tensors, found):
  weights = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
  message = _error({'x': (2, 2)}, {'x': [origin]}, weights)
  assert f'1 of the wrong shape: {found} instead of [2, 2] (for x)' in message


def test_a_value_that_fits_by_its_shape_alone_is_not_taken_where_the_transformation_fails():
  def fails(value):
    raise ValueError
  message = _error({'x': (2, 2)}, {'x': [origins.whole('w', fails)]},
                   {'w': np.ones([2, 2], np.float32)})
  assert message == '1 of the wrong shape: w: [2, 2] instead of [2, 2] (for x)'


@pytest.mark.parametrize('first,second', [
    (origins.whole('w'), origins.whole('w')),
    (origins.part('w', 0, 2), origins.part('w', 0, 2)),
    (origins.whole('w'), origins.part('w', 0, 2)),
    (origins.part('w', 0, 2), origins.part('w', 1, 3)),
])
def test_a_weight_that_two_variables_take_is_named(first, second):
  message = _error({'x': (6,), 'y': (6,)}, {'x': [first], 'y': [second]},
                   {'w': np.ones(6, np.float32)})
  assert '1 used twice: w (for x, y)' in message


def test_a_part_that_no_variable_takes_is_unknown():
  message = _error({'x': (2,), 'y': (2,)},
                   {'x': [origins.part('w', 0, 3)], 'y': [origins.part('w', 2, 3)]},
                   {'w': np.ones(6, np.float32)})
  assert message == '1 unknown: w (part 2 of 3)'


def test_a_weight_that_a_checkpoint_has_under_two_names_is_named():
  message = _error({'x': (2,)}, {'x': [origins.whole('w')]},
                   {'w': np.ones(2, np.float32), 'module.w': np.ones(2, np.float32)})
  assert message == '1 duplicate: w and module.w'
