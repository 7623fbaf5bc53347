"""evaluation/summary.py."""

import json

import programs
import pytest
import tiny
import tiny_centers

PROGRAM = 'evaluation/summary.py'


def test_json_has_the_promised_fields_and_the_table_the_same_numbers(tmp_path):
  config = f'--config_file={tiny.write_config(tmp_path)}'
  result = json.loads(programs.run(PROGRAM, config, '--format=json').stdout)
  assert set(result) == {'parameters', 'trainable_parameters', 'inference_parameters', 'madds',
                         'input_size', 'by_part'}
  assert result['input_size'] == [65, 81]
  assert 0 < result['inference_parameters'] < result['trainable_parameters']
  assert result['trainable_parameters'] < result['parameters']
  assert sum(part['madds'] for part in result['by_part'].values()) == result['madds'] > 0
  table = programs.run(PROGRAM, config, '--input_size=97x65').stdout
  assert f'{result["parameters"]:,}' in table and 'at 97x65' in table


@pytest.mark.slow
def test_centre_models_have_the_second_count_of_axial_deeplab(tmp_path):
  config = f'--config_file={tiny_centers.write_config(tmp_path)}'
  result = json.loads(programs.run(PROGRAM, config, '--format=json').stdout)
  parts = result['by_part']
  backbone = parts['backbone']['trainable_parameters']
  decoders = sum(parts[f'{branch}_decoder']['trainable_parameters']
                 for branch in ('semantic', 'instance'))
  assert backbone < result['projected_parameters'] < backbone + decoders
  table = programs.run(PROGRAM, config).stdout
  assert f'{result["projected_parameters"] / 1e6:.2f} M of them in the backbone' in table


def test_wrong_use_is_one_line(tmp_path):
  config = f'--config_file={tiny.write_config(tmp_path)}'
  assert 'HEIGHTxWIDTH' in programs.error_line(PROGRAM, config, '--input_size=big')
  assert 'no such file' in programs.error_line(PROGRAM, '--config_file=nowhere.textproto')
