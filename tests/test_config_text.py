"""Configs with a base: what takes precedence, what is removed, and what is refused in one line."""

import os
import pathlib

import pytest
from google.protobuf import text_format

from deeplab_tf.config import ConfigError, load_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / 'configs' / 'coco' / 'max_deeplab' / 'max_deeplab_s_res641.textproto'
BASE = '''
experiment_name: "${NAME}"
model_options {
  backbone { name: "max_deeplab_s" output_stride: 16 }
  max_deeplab {
    num_queries: 32
    auxiliary_semantic_head { output_channels: 10 head_channels: 64 }
    auxiliary_low_level { feature_key: "res3" }
    auxiliary_low_level { feature_key: "res2" }
  }
}
train_dataset_options { batch_size: 4 crop_size: [65, 97] file_pattern: "${TRAIN_SET}" }
'''
HEAD = 'model_options.max_deeplab.auxiliary_semantic_head'


def _write(folder, **texts):
  for name, text in texts.items():
    (folder / f'{name}.textproto').write_text(text)


def _load(folder, text, overrides=(), base=BASE):
  """Loads a file with the given text beside base.textproto."""
  _write(folder, base=base, a=text)
  return load_config(folder / 'a.textproto', overrides)


def _error(folder, text, overrides=(), base=BASE):
  """Returns what is said about a file, without the name of the folder."""
  with pytest.raises(ConfigError) as caught:
    _load(folder, text, overrides, base)
  message = str(caught.value)
  assert '\n' not in message
  return message.replace(f'{folder}{os.sep}', '')


def test_what_is_laid_over_a_base_wins(tmp_path):
  config = _load(tmp_path, '''
      base_config: "base.textproto"
      model_options { max_deeplab { num_queries: 8 auxiliary_low_level { feature_key: "res4" } } }
      train_dataset_options { crop_size: [33, 33] }''',
                 ['train_dataset_options { batch_size: 2 }'])
  options = config.model_options.max_deeplab
  assert options.num_queries == 8
  assert options.auxiliary_semantic_head.head_channels == 64
  assert [level.feature_key for level in options.auxiliary_low_level] == ['res4']
  assert config.model_options.backbone.output_stride == 16
  assert list(config.train_dataset_options.crop_size) == [33, 33]
  assert config.train_dataset_options.batch_size == 2


def test_another_architecture_replaces_the_one_of_the_base(tmp_path):
  config = _load(tmp_path, 'model_options { max_deeplab { num_queries: 8 } } '
                 'base_config: "base.textproto"', base='model_options { panoptic_deeplab { } }')
  assert config.model_options.WhichOneof('meta_architecture') == 'max_deeplab'
  assert config.model_options.max_deeplab.num_queries == 8


def test_a_base_is_found_from_the_file_that_names_it(tmp_path, monkeypatch):
  (tmp_path / 'one' / 'two').mkdir(parents=True)
  _write(tmp_path, base=BASE)
  _write(tmp_path / 'one', b='base_config: "../base.textproto" experiment_name: "b"')
  _write(tmp_path / 'one' / 'two',
         a='base_config: "../b.textproto" train_dataset_options { batch_size: 7 }',
         absolute=f'base_config: "{tmp_path}/base.textproto"')
  monkeypatch.chdir(tmp_path / 'one')
  config = load_config('two/a.textproto')
  assert (config.experiment_name, config.train_dataset_options.batch_size) == ('b', 7)
  assert config.model_options.max_deeplab.num_queries == 32
  assert load_config('two/absolute.textproto') == load_config('../base.textproto')


def test_what_is_loaded_is_whole(tmp_path):
  config = _load(tmp_path, 'base_config: "base.textproto" '
                 f'clear: "{HEAD}"', ['clear: "experiment_name"'])
  assert not config.HasField('base_config') and not config.clear
  # What a training and an export write beside their results.
  (tmp_path / 'elsewhere').mkdir()
  _write(tmp_path / 'elsewhere', config=text_format.MessageToString(config))
  assert load_config(tmp_path / 'elsewhere' / 'config.textproto') == config
  assert config.train_dataset_options.file_pattern == ['${TRAIN_SET}']


@pytest.mark.parametrize('in_override', [False, True])
def test_fields_of_the_base_are_taken_away(tmp_path, in_override):
  text = f'''clear: "{HEAD}"
      clear: "model_options.max_deeplab.auxiliary_low_level"
      clear: "train_dataset_options.crop_size" clear: "model_options.backbone.output_stride"
      clear: "trainer_options.loss_options.semantic_loss"'''
  base = 'base_config: "base.textproto" '
  config = _load(tmp_path, base, [text]) if in_override else _load(tmp_path, base + text)
  options = config.model_options.max_deeplab
  assert not options.HasField('auxiliary_semantic_head')
  assert not options.auxiliary_low_level
  assert not config.train_dataset_options.crop_size
  assert config.model_options.backbone.output_stride == 32
  # What was not there leaves no empty messages behind.
  assert not config.HasField('trainer_options')
  assert options.num_queries == 32


def test_fields_are_taken_away_before_others_are_set(tmp_path):
  config = _load(tmp_path, f'base_config: "base.textproto" clear: "{HEAD}" '
                 'model_options { max_deeplab { auxiliary_semantic_head { output_channels: 5 } } }',
                 ['experiment_name: "a"', 'clear: "experiment_name"'])
  head = config.model_options.max_deeplab.auxiliary_semantic_head
  assert head.output_channels == 5 and not head.HasField('head_channels')
  assert config.experiment_name == ''
  # A later layer may set again what an earlier one took away.
  config = load_config(tmp_path / 'a.textproto', ['clear: "experiment_name"',
                                                  'experiment_name: "b"'])
  assert config.experiment_name == 'b'


def test_an_ablation_of_a_published_config(tmp_path):
  config = _load(tmp_path, f'base_config: "{PUBLISHED}" clear: "{HEAD}" '
                 'clear: "trainer_options.loss_options.semantic_loss"')
  whole = load_config(PUBLISHED)
  assert whole.trainer_options.loss_options.HasField('semantic_loss')
  whole.trainer_options.loss_options.ClearField('semantic_loss')
  whole.model_options.max_deeplab.ClearField('auxiliary_semantic_head')
  assert config == whole


FAULTS = {
    'no such base': ('base_config: "bas.textproto"', 'a.textproto: base_config "bas.textproto": '
                     'no such file. Did you mean "base.textproto"?'),
    'a folder': ('base_config: "."', 'a.textproto: base_config "." is a folder; it takes a '
                 '.textproto file'),
    'itself': ('base_config: "a.textproto"', 'a.textproto: base_config "a.textproto": a file '
               'cannot build on itself: a.textproto over a.textproto'),
    'unknown field': (
        'base_config: "base.textproto" clear: "model_options.max_deeplab.auxiliary_head"',
        'a.textproto: clear "model_options.max_deeplab.auxiliary_head": unknown field '
        '"auxiliary_head" in ModelOptions.MaXDeepLabOptions. Did you mean '
        '"auxiliary_semantic_head"?'),
    'unknown message': (
        'base_config: "base.textproto" clear: "model_option.max_deeplab"',
        'a.textproto: clear "model_option.max_deeplab": unknown field "model_option" in '
        'ExperimentOptions. Did you mean "model_options"?'),
    'beyond a scalar': (
        'base_config: "base.textproto" clear: "experiment_name.x"',
        'a.textproto: clear "experiment_name.x": experiment_name has no fields'),
    'part of a repeated field': (
        'base_config: "base.textproto" '
        'clear: "model_options.max_deeplab.auxiliary_low_level.feature_key"',
        'a.textproto: clear "model_options.max_deeplab.auxiliary_low_level.feature_key": '
        'auxiliary_low_level is repeated and can be cleared as a whole only'),
    'the base itself': (
        'base_config: "base.textproto" clear: "base_config"',
        'a.textproto: clear "base_config": only fields of the experiment can be cleared'),
    'nothing below': (
        f'model_options {{ max_deeplab {{ }} }} clear: "{HEAD}"',
        'a.textproto: clear removes fields of a base_config, and there is none'),
    'contradiction': (
        'base_config: "base.textproto" model_options { backbone { output_stride: 7 } }',
        'a.textproto over base.textproto: model_options.backbone.output_stride is 7: allowed are '
        '8, 16, 32'),
}


@pytest.mark.parametrize('name', FAULTS)
def test_a_fault_is_one_line_with_the_file_that_has_it(name, tmp_path):
  text, expected = FAULTS[name]
  assert _error(tmp_path, text) == expected


@pytest.mark.parametrize('text, expected', [
    ('model_options {\n  max_deeplab {\n    num_querys: 3\n  }\n}',
     'base.textproto:3: unknown field "num_querys" in '),
    ('model_options {\n  max_deeplab {\n', 'base.textproto:'),
    ('base_config: "other.textproto"', 'base.textproto: base_config "other.textproto": no such'),
    ('clear: "experiment_name"', 'base.textproto: clear removes fields')])
def test_a_fault_in_a_base_names_the_base(tmp_path, text, expected):
  assert _error(tmp_path, 'base_config: "base.textproto"', base=text).startswith(expected)


def test_files_that_build_on_each_other_are_named(tmp_path):
  (tmp_path / 'link.textproto').symlink_to(tmp_path / 'a.textproto')
  message = _error(tmp_path, 'base_config: "base.textproto"', base='base_config: "link.textproto"')
  assert message == ('base.textproto: base_config "link.textproto": a file cannot build on itself: '
                     'a.textproto over base.textproto over link.textproto')


def test_an_override_names_no_base_and_its_faults_are_its_own(tmp_path):
  text = 'base_config: "base.textproto"'
  assert _error(tmp_path, text, [text]) == (
      f"--override='{text}': set base_config in the file itself")
  assert _error(tmp_path, text, ['clear: "experiment_nam"']) == (
      "--override='clear: \"experiment_nam\"': clear \"experiment_nam\": unknown field "
      '"experiment_nam" in ExperimentOptions. Did you mean "experiment_name"?')
  # An override lies over the file, so that it can clear without a base.
  config = _load(tmp_path, BASE, ['clear: "experiment_name"'])
  assert not config.HasField('experiment_name')


# === Encodings ===

_UMLAUT = BASE.replace('experiment_name: "${NAME}"', 'experiment_name: "Größe"  # Größe der Bilder')


@pytest.mark.parametrize('encode', [
    lambda text: b'\xef\xbb\xbf' + text.encode(),
    lambda text: text.replace('\n', '\r\n').encode(),
    lambda text: b'\xef\xbb\xbf' + text.replace('\n', '\r\n').encode(),
    lambda text: b'# one file\n\xef\xbb\xbf' + text.encode(),  # `cat a b > c` in a shell.
], ids=['mark', 'crlf', 'mark and crlf', 'mark within'])
@pytest.mark.parametrize('role', ['file', 'base'])
def test_byte_order_marks_and_windows_line_ends_are_no_part_of_the_text(role, encode, tmp_path):
  if role == 'file':
    (tmp_path / 'a.textproto').write_bytes(encode(_UMLAUT))
  else:
    (tmp_path / 'base.textproto').write_bytes(encode(_UMLAUT))
    (tmp_path / 'a.textproto').write_bytes(encode('base_config: "base.textproto"'))
  config = load_config(tmp_path / 'a.textproto', ['\ufefftrainer_options { seed: 3 }'])
  assert config.experiment_name == 'Größe' and config.trainer_options.seed == 3
  assert config.model_options.max_deeplab.num_queries == 32


@pytest.mark.parametrize('role', ['file', 'base'])
@pytest.mark.parametrize('content,wanted', [
    (_UMLAUT.encode('latin-1'), r':2: is not UTF-8 \(byte 0xf6\); save it as UTF-8'),
    (b'# fine\n' + '# Größe'.encode('cp1252') + BASE.encode(), r':2: is not UTF-8 \(byte 0xf6\)'),
    (_UMLAUT.encode('utf-16'), ': is UTF-16.*save it as UTF-8'),
    (_UMLAUT.encode('utf-16-be'), ': is UTF-16.*save it as UTF-8'),
    (BASE.encode() + b'\n\0', ':14: has a NUL byte'),
])
def test_other_encodings_are_named(role, content, wanted, tmp_path):
  name = {'file': 'a', 'base': 'base'}[role]
  _write(tmp_path, a='base_config: "base.textproto"')
  (tmp_path / f'{name}.textproto').write_bytes(content)
  with pytest.raises(ConfigError, match=f'{name}.textproto{wanted}') as error:
    load_config(tmp_path / 'a.textproto')
  assert '\n' not in str(error.value)


def test_an_override_that_is_not_utf_8_is_refused(tmp_path):
  latin = os.fsdecode('experiment_name: "Größe"'.encode('latin-1'))
  assert 'is not UTF-8 (byte 0xf6)' in _error(tmp_path, BASE, [latin])


def test_characters_that_nobody_sees_are_named(tmp_path):
  error = _error(tmp_path, BASE + 'trainer_options\u200b{ seed: 1 }')
  assert 'a.textproto:13: ' in error and 'U+200B' in error


# === Quotes ===


@pytest.mark.parametrize('text,wanted', [
    ('trainer_options { precision: "FLOAT16" }',
     '"FLOAT16" is in quotes, and the values of TrainerOptions.Precision are written without: '
     'FLOAT16'),
    ("trainer_options { precision: 'BFLOAT16' }", "'BFLOAT16' is in quotes"),
    ('trainer_options { precision: "float16" }',
     'allowed are FLOAT32, BFLOAT16, FLOAT16, without quotes. Did you mean "FLOAT16"?'),
    ('trainer_options { precision: float16 }', 'Did you mean "FLOAT16"?'),
    ('trainer_options { precision: 7 }',
     'unknown value "7" of TrainerOptions.Precision: allowed are FLOAT32'),
    ('trainer_options { loss_options { matching_solver: "SCIPY" } }', 'written without: SCIPY'),
    ('evaluator_options { best_checkpoint_order: "LOWER" }', 'written without: LOWER'),
    ('train_dataset_options { dataset: shapes }', 'a text is written in quotes: "shapes"'),
    ('trainer_options { solver_options { optimizer: adam } }', 'in quotes: "adam"'),
    ('trainer_options { seed: "1" }', 'a number is written without quotes: 1'),
    ('trainer_options { ema_decay: "0.9" }', 'a number is written without quotes: 0.9'),
    ('trainer_options { jit_compile: "true" }',
     'Expected "true" or "false". Write it without quotes.'),
])
def test_quotes_that_are_missing_or_too_many_are_named(text, wanted, tmp_path):
  for error in (_error(tmp_path, text), _error(tmp_path, BASE, [text])):
    assert wanted in error, error
