"""Configs are read, overridden, and refused with one line that says what to do."""

import pathlib

import pytest
import shared
from google.protobuf import descriptor

import deeplab_tf
from deeplab_tf.config import ConfigError, load_config, require_value
from deeplab_tf.protos import config_pb2

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / 'configs').rglob('*.textproto'))
MINIMAL = 'model_options { max_deeplab { } }'
CLASSIFIER = 'model_options { classification { } } '


def _write(tmp_path, text):
  path = tmp_path / 'a.textproto'
  path.write_text(text)
  return str(path)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_says_what_it_is(path):
  load_config(path)
  header = [line for line in path.read_text().splitlines() if line.startswith('#')]
  for word in ('Paper:', 'Hardware:', 'Here:', '--config_file='):
    assert any(word in line for line in header), f'{path}: the header lacks {word}'
  assert f'--config_file={path.relative_to(ROOT)}' in path.read_text()


@pytest.mark.parity
def test_deeplab2_text_protos_of_our_architectures_load_unchanged():
  found = sorted(shared.path('parity', 'deeplab2', 'configs', 'coco', 'max_deeplab').glob('*'))
  assert len(found) == 9
  for path in found:
    config = load_config(path)
    assert config.model_options.max_deeplab.pixel_space_head.output_channels == 128


@pytest.mark.parity
def test_the_schema_holds_every_field_of_deeplab2_with_its_type_and_default():
  import json
  messages = json.loads(shared.path('spec', 'deeplab2_config_fields.json').read_text())['messages']
  pool = config_pb2.DESCRIPTOR.pool
  for name, fields in messages.items():
    message = pool.FindMessageTypeByName(f'deeplab_tf.{name}')
    for field in fields:
      ours = message.fields_by_name.get(field['name'])
      assert ours is not None, f'{name}.{field["name"]} is missing'
      repeated = ours.label == descriptor.FieldDescriptor.LABEL_REPEATED
      assert repeated == field['repeated'], f'{name}.{field["name"]}'
      if 'default' in field:
        assert ours.default_value == field['default'], f'{name}.{field["name"]}'
      if ours.message_type is not None:
        assert ours.message_type.full_name == f'deeplab_tf.{field["type"]}'


def test_every_field_of_the_schema_has_a_comment():
  for path in sorted((ROOT / 'protos').glob('*.proto')):
    lines = path.read_text().splitlines()
    refused = False
    for before, line in zip(lines, lines[1:]):
      # What DeepLab2 has and this library refuses needs no explanation of its fields.
      if 'message' in line:
        refused = any(n in line for n in ('DeeplabV3', 'MotionDeepLab'))
      is_field = ' = ' in line and line.strip().startswith(('optional', 'repeated'))
      if is_field and not refused:
        assert before.strip().startswith('//'), f'{path.name}: {line.strip()}'


def test_overrides_win_in_order_and_replace_repeated_fields(tmp_path):
  path = _write(tmp_path, MINIMAL + ' train_dataset_options { batch_size: 1 crop_size: [65, 65] }')
  config = load_config(path, [
      'train_dataset_options { batch_size: 2 crop_size: [97, 129] }',
      'train_dataset_options { batch_size: 3 }',
  ])
  assert config.train_dataset_options.batch_size == 3
  assert list(config.train_dataset_options.crop_size) == [97, 129]


FAULTS = {
    'a stride that no stage has': (
        'model_options { max_deeplab { transformer_beyond_stride: 64 } }',
        r'transformer_beyond_stride is 64: allowed are 4, 8, 16, 32'),
    'switchable convolutions from a stride that no stage has': (
        'model_options { backbone { use_sac_beyond_stride: 7 } max_deeplab { } }',
        r'use_sac_beyond_stride is 7: allowed are -1 \(none\), 2, 4, 8, 16, 32'),
    'even span': (
        'model_options { backbone { attention { span: 4 } } max_deeplab { } }',
        r'a\.textproto: model_options\.backbone\.attention\.span is 4: it must be an odd number'),
    'negative span': (
        'model_options { backbone { attention { span: -3 } } max_deeplab { } }',
        r'backbone\.attention\.span is -3: it must be an odd number.* or 0 for all positions'),
    'no heads': (
        'model_options { backbone { attention { num_heads: 0 } } max_deeplab { } }',
        r'backbone\.attention\.num_heads is 0: it must be at least 1'),
    'ASPP replaced twice': (
        'model_options { panoptic_deeplab { instance { instance_decoder_override { '
        'skip_aspp: true aspp_use_only_1x1_proj_conv: true } } } }',
        r'instance_decoder_override has skip_aspp and aspp_use_only_1x1_proj_conv.*remove one'),
    'unknown convolution in ASPP': (
        'model_options { decoder { aspp_conv_type: "separable_conv" } max_deeplab { } }',
        'decoder.aspp_conv_type is "separable_conv": allowed are .*standard_conv'),
    'less than no blocks': (
        'model_options { max_deeplab { decoder_blocks_per_stage: -2 } }',
        r'decoder_blocks_per_stage is -2: it must be at least 1'),
    'typing error': (
        'model_options {\n  max_deeplab {\n    num_querys: 3\n  }\n}',
        r'a\.textproto:3: unknown field "num_querys" in ModelOptions\.MaXDeepLabOptions\. '
        r'Did you mean "num_queries"\?'),
    'wrong enum': (
        'model_options { max_deeplab { pixel_to_pixel_attention: AXAL } }',
        r'a\.textproto:1: unknown value "AXAL" .*allowed are .*Did you mean "AXIAL"'),
    'syntax': ('model_options { max_deeplab {\n', r'a\.textproto'),
    'no architecture': ('model_options { }', 'no architecture is set; set one of .*max_deeplab'),
    'another task': ('model_options { motion_deeplab { } }', 'motion_deeplab is for video'),
    'video': (MINIMAL + 'train_dataset_options { use_two_frames: true }',
              'use_two_frames is for video'),
    'crop below the stride': (
        MINIMAL + 'train_dataset_options { crop_size: [9, 65] }',
        r'train_dataset_options\.crop_size has 9, smaller than .*output_stride'),
    'three sizes': (MINIMAL + 'eval_dataset_options { crop_size: [65, 65, 65] }',
                    r'eval_dataset_options\.crop_size has 3 values'),
    'resized beyond the crop': (
        MINIMAL + 'train_dataset_options { crop_size: [65, 65] max_resize_value: 70 }',
        'max_resize_value 70 is larger than crop_size 65'),
    'long warm-up': (
        MINIMAL + 'trainer_options { solver_options { warmup_steps: 9 '
        'training_number_of_steps: 5 } }',
        'warmup_steps 9 is more than training_number_of_steps 5'),
    'optimizer': (
        MINIMAL + 'trainer_options { solver_options { optimizer: "adamx" } }',
        'optimizer is "adamx": allowed are .*adamw.*Did you mean "adam'),
    'range': (MINIMAL + 'evaluator_options { pixel_confidence_threshold: 1.5 }',
              'pixel_confidence_threshold is 1.5: it must be from 0 to 1'),
    'scales': (MINIMAL + 'train_dataset_options { augmentations { min_scale_factor: 2 } }',
               'min_scale_factor 2 must be positive and at most max_scale_factor 1'),
    'solver that cannot be compiled': (
        MINIMAL + 'trainer_options { jit_compile: true loss_options { matching_solver: SCIPY } }',
        'SCIPY cannot be compiled'),
    'masks for a classifier': (
        CLASSIFIER + 'train_dataset_options { dataset: "shapes" }',
        'train_dataset_options.dataset is "shapes", and model_options.classification needs data '
        'with one class per image: image_folders or imagenet'),
    'classes for a mask model': (
        MINIMAL + 'eval_dataset_options { dataset: "imagenet" }',
        'eval_dataset_options.dataset is "imagenet", and model_options.max_deeplab needs data '
        'with masks; one class per image is for model_options.classification'),
    'a field of segmentation': (
        CLASSIFIER + 'eval_dataset_options { crop_size: [65, 65] max_resize_value: 65 }',
        'eval_dataset_options.max_resize_value is for segmentation'),
    'a field of classification': (
        MINIMAL + 'train_dataset_options { augmentations { min_crop_area: 0.5 } }',
        'min_crop_area is for image classification'),
    'smoothing': (
        CLASSIFIER + 'trainer_options { loss_options { classification_loss { '
        'label_smoothing: 1.5 } } }',
        r'classification_loss.label_smoothing is 1\.5: it must be from 0 to'),
    'empty masks for another model': (
        MINIMAL + 'train_dataset_options { keep_empty_masks: true }',
        r'train_dataset_options\.keep_empty_masks is for mask2former; model_options has '
        'max_deeplab: remove it'),
    'empty masks in an evaluation': (
        'model_options { mask2former { } } eval_dataset_options { keep_empty_masks: true }',
        r'eval_dataset_options\.keep_empty_masks is for training: remove it'),
    'empty masks of pasted segments': (
        'model_options { mask2former { } } train_dataset_options { keep_empty_masks: true '
        'augmentations { panoptic_copy_paste { panoptic_copy_paste_scale: 0.5 } } }',
        'train_dataset_options has keep_empty_masks and augmentations.panoptic_copy_paste'),
    'output stride': ('model_options { max_deeplab { } backbone { output_stride: 7 } }',
                      'output_stride is 7: allowed are 8, 16, 32'),
}


@pytest.mark.parametrize('name', FAULTS)
def test_a_fault_is_one_line_with_file_and_field(name, tmp_path):
  text, message = FAULTS[name]
  with pytest.raises(ConfigError, match=message) as caught:
    load_config(_write(tmp_path, text))
  assert '\n' not in str(caught.value)
  assert 'a.textproto' in str(caught.value)


def test_a_fault_in_an_override_names_the_override(tmp_path):
  with pytest.raises(ConfigError, match='--override=.*unknown field "batchsize".*batch_size'):
    load_config(_write(tmp_path, MINIMAL), ['train_dataset_options { batchsize: 2 }'])


def test_a_missing_file_names_the_nearest(tmp_path):
  _write(tmp_path, MINIMAL)
  with pytest.raises(ConfigError, match='no such file. Did you mean "a.textproto"'):
    load_config(tmp_path / 'b.textproto')
  with pytest.raises(ConfigError, match='does not exist either'):
    load_config(tmp_path / 'nowhere' / 'b.textproto')
  with pytest.raises(ConfigError, match='is a folder'):
    load_config(tmp_path)


def test_placeholders_are_errors_only_where_used(tmp_path):
  config = load_config(_write(tmp_path, 'experiment_name: "${NAME}"' + MINIMAL))
  assert config.experiment_name == '${NAME}'
  with pytest.raises(ConfigError, match=r'file_pattern is the placeholder "\$\{TRAIN_SET\}"'):
    require_value('a/${TRAIN_SET}', 'train_dataset_options.file_pattern')


def test_an_unknown_backbone_lists_those_that_there_are(tmp_path):
  path = _write(tmp_path, 'model_options { backbone { name: "max_deeplab_x" } max_deeplab { } } '
                'train_dataset_options { dataset: "shapes" }')
  with pytest.raises(ValueError, match='max_deeplab takes max_deeplab_s'):
    deeplab_tf.build_model(load_config(path))
