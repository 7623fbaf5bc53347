"""Configs with any content are read, or refused with a ConfigError that names the file."""

import os
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_tf import cli, config
from deeplab_tf.user_errors import UserError

_SEEDS = [path.read_bytes() for path in sorted(
    (pathlib.Path(__file__).resolve().parents[1] / 'configs').rglob('*.textproto'))]
_TOKENS = [
    b'{', b'}', b'<', b'[', b']', b':', b'"', b'\0', b'\xff', b'\xed\xa0\x80', b'\xef\xbb\xbf',
    b'1e999', b'-1', b'9' * 30, b'9' * 6000, b'nan', b'-inf', b'model_options', b'max_deeplab {',
    b'base_config: "\\000"', b'base_config: "."', b'base_config: "' + b'a' * 5000 + b'"',
    b'clear: "."', b'clear: ""', b'clear: "model_options"', b'"\\377"', b'[google.protobuf.Any]',
    b'[type.googleapis.com/x] { }', b'\x1b[0m', b'crop_size: [1, 2]']
_FUZZ = settings(deadline=None, max_examples=150, derandomize=True, database=None)


@st.composite
def _changed(draw):
  """A shipped config with some places cut, overwritten or filled with tokens."""
  content = bytearray(draw(st.sampled_from(_SEEDS)))
  for _ in range(draw(st.integers(1, 5))):
    start = draw(st.integers(0, len(content)))
    content[start:start + draw(st.integers(0, 40))] = draw(st.one_of(
        st.sampled_from(_TOKENS), st.binary(max_size=4)))
  return bytes(content)


@pytest.fixture(name='path', scope='module')
def fixture_path(tmp_path_factory):
  return tmp_path_factory.mktemp('configs') / 'fuzzed.textproto'


def _assert_read_or_refused(path, content, overrides=()):
  path.write_bytes(content)
  try:
    config.load_config(str(path), overrides)
  except config.ConfigError as error:
    line = cli.one_line(str(error))
    assert isinstance(error, UserError) and line.isprintable() and len(line) < 5000
    assert str(path) in line or line.startswith('--override=')


@_FUZZ
@given(content=st.one_of(_changed(), st.binary(max_size=80)))
def test_any_content_is_read_or_refused(path, content):
  _assert_read_or_refused(path, content)


@_FUZZ
@given(text=st.one_of(st.text(max_size=60), st.lists(st.sampled_from(_TOKENS), max_size=8).map(
    lambda tokens: b' '.join(tokens).decode('latin-1'))))
def test_any_override_is_laid_over_or_refused(path, text):
  _assert_read_or_refused(path, _SEEDS[0].replace(b'base_config', b'#'), [text])


@pytest.mark.parametrize('content', [
    b'model_options {' * 20000, b'model_options { max_deeplab {' * 5000, b'x {' * 50000,
    b'x: [' * 50000, b'[a.b/c] {' * 9999, b'"' * 10**6, b'\0' * 1000,
    b'clear: "' + b'a.' * 5000 + b'"'], ids=range(8))
def test_deep_and_long_texts_are_refused(path, content):
  path.write_bytes(content)
  with pytest.raises(config.ConfigError, match='fuzzed.textproto'):
    config.load_config(str(path))


@pytest.mark.parametrize('value', ['nan', 'inf', '-inf', '1e999'])
def test_numbers_are_finite(path, value):
  path.write_text('model_options { max_deeplab { } backbone { output_stride: 16 } } '
                  f'trainer_options {{ solver_options {{ base_learning_rate: {value} }} }}')
  with pytest.raises(config.ConfigError, match='trainer_options.solver_options.base_learning_rate'):
    config.load_config(str(path))


@pytest.mark.skipif(not os.path.exists('/dev/zero'), reason='no such device')
def test_a_device_is_no_base(path):
  path.write_text('base_config: "/dev/zero"')
  with pytest.raises(config.ConfigError, match='no such file'):
    config.load_config(str(path))
