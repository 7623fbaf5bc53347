"""config.json of Hugging Face becomes a config of this library."""

import json

import mask2former_checkpoints as recorded
import pytest

import deeplab_tf
from deeplab_tf import tasks
from deeplab_tf.checkpoints import huggingface_config
from deeplab_tf.data import catalog
from deeplab_tf.user_errors import ConfigError, MissingFileError, UsageError

_LARGE = {'model_type': 'swin', 'embed_dim': 192, 'depths': [2, 2, 18, 2],
          'num_heads': [6, 12, 24, 48], 'window_size': 12, 'drop_path_rate': 0.3, 'image_size': 384}
_RESNET = {'model_type': 'resnet', 'depths': [3, 4, 23, 3]}


def _write(folder, backbone=None, **values):
  content = {'model_type': 'mask2former', 'backbone_config': backbone or {'model_type': 'swin'},
             **values}
  (folder / 'config.json').write_text(json.dumps(content))
  return str(folder)


def _make(folder, backbone=None, overrides=(), **values):
  return huggingface_config.make(_write(folder, backbone, **values), overrides)


def _labels(names):
  return {str(index): name for index, name in enumerate(names)}


def test_left_out_values_have_the_defaults_of_transformers(tmp_path):
  config = _make(tmp_path).config
  assert config.model_options.backbone.name == 'swin_tiny'
  assert not config.model_options.backbone.HasField('swin')
  assert config.model_options.backbone.drop_path_keep_prob == pytest.approx(0.9)
  options = config.model_options.mask2former
  assert (options.num_queries, options.hidden_channels, options.mask_channels, options.num_layers,
          options.num_heads, options.feed_forward_channels) == (100, 256, 256, 9, 8, 2048)
  assert not options.pre_norm and not options.force_input_projection
  assert (options.pixel_decoder.channels, options.pixel_decoder.num_layers,
          options.pixel_decoder.feed_forward_channels) == (256, 6, 1024)
  names = [category.name for category in config.eval_dataset_options.label_folders.categories]
  assert names == ['LABEL_0', 'LABEL_1']


def test_sizes_are_taken(tmp_path):
  config = _make(
      tmp_path, {**_LARGE, 'window_size': 8}, num_queries=200, hidden_dim=64, mask_feature_size=32,
      decoder_layers=4, num_attention_heads=4, dim_feedforward=128, feature_size=96,
      encoder_layers=2, encoder_feedforward_dim=256, pre_norm=True,
      enforce_input_projection=True).config
  options = config.model_options.mask2former
  assert (options.num_queries, options.hidden_channels, options.mask_channels, options.num_layers,
          options.num_heads, options.feed_forward_channels) == (200, 64, 32, 3, 4, 128)
  assert options.pre_norm and options.force_input_projection
  assert (options.pixel_decoder.channels, options.pixel_decoder.num_layers,
          options.pixel_decoder.feed_forward_channels) == (96, 2, 256)
  backbone = config.model_options.backbone
  assert list(backbone.swin.num_heads) == [6, 12, 24, 48] and backbone.swin.window_size == 8
  assert backbone.swin.embedding_channels == 192 and list(backbone.swin.num_blocks) == [2, 2, 18, 2]


@pytest.mark.parametrize('backbone,name', [
    (_LARGE, 'swin_large'), (_RESNET, 'torchvision_resnet101'),
    ({'model_type': 'swin', 'depths': [2, 2, 18, 2]}, 'swin_small')])
def test_a_backbone_of_the_sizes_of_a_variant_has_its_name(tmp_path, backbone, name):
  options = _make(tmp_path, backbone).config.model_options.backbone
  assert options.name == name
  assert not options.HasField('swin') and not options.resnet.num_blocks
  assert options.resnet.frozen_batch_norm == (backbone is _RESNET)


def test_a_resnet_of_other_sizes_has_its_own(tmp_path):
  backbone = {**_RESNET, 'embedding_size': 8, 'hidden_sizes': [32, 64, 128, 256],
              'downsample_in_bottleneck': True}
  options = _make(tmp_path, backbone).config.model_options.backbone
  assert options.name == 'torchvision_resnet50' and list(options.resnet.num_blocks) == [3, 4, 23, 3]
  assert (options.resnet.stem_channels, options.resnet.middle_channels,
          options.resnet.stage_channels, options.resnet.stride_in_1x1) == (8, 8, 32, True)


def test_the_written_config_is_the_same_and_says_how_images_are_resized(tmp_path):
  made = _make(tmp_path, id2label=_labels(['tree', 'möwe\n"']))
  path = made.write(str(tmp_path / 'out'))
  assert deeplab_tf.load_config(path) == made.config
  options = made.config.eval_dataset_options
  assert options.resize_rule == options.SHORTER_SIDE and options.size_divisor == 32
  assert (list(options.min_resize_value), list(options.max_resize_value)) == ([800], [1333])
  assert made.config.model_options.image_normalization == made.config.model_options.IMAGENET
  thresholds = made.config.evaluator_options.mask2former_postprocessing
  assert thresholds.object_mask_threshold == thresholds.overlap_threshold == pytest.approx(0.8)
  text = (tmp_path / 'out' / 'config.textproto').read_text(encoding='utf-8')
  assert '# every image to 384x384 instead' in text and 'möwe' in text
  made.check_writable(str(tmp_path / 'out'))  # Written once more, it is the same.
  (tmp_path / 'out' / 'config.textproto').write_text('')
  with pytest.raises(UsageError, match='config.textproto exists already, and is another config'):
    made.check_writable(str(tmp_path / 'out'))


def test_overrides_are_merged(tmp_path):
  made = _make(tmp_path, overrides=['evaluator_options { mask2former_postprocessing { '
                                    'object_mask_threshold: 0.25 } }'])
  thresholds = made.config.evaluator_options.mask2former_postprocessing
  assert thresholds.object_mask_threshold == 0.25
  assert 'object_mask_threshold: 0.25' in made.text
  with pytest.raises(ConfigError, match='object_mask_threshold'):
    _make(tmp_path, overrides=['evaluator_options { mask2former_postprocessing { '
                               'object_mask_threshold: 2 } }'])


# === Classes ===


@pytest.mark.parametrize('name', ['coco_panoptic', 'cityscapes_panoptic', 'ade20k_panoptic',
                                  'mapillary_vistas', 'coco_instances', 'cityscapes_instances',
                                  'ade20k_instances'])
def test_the_classes_of_a_known_data_set_are_found_by_their_names(tmp_path, name):
  info = catalog.built_in(name)
  # The first of several synonyms is enough, in any case, and a few may be named otherwise.
  names = [category.name.split(',')[0].upper() + ' ' for category in info.categories]
  others = int(len(names) > 10)
  names[2:2 + others] = ['something else'] * others
  made = _make(tmp_path, id2label=_labels(names))
  assert made.config.eval_dataset_options.dataset == name
  assert catalog.from_config(made.config) == info
  assert f'those of {name}: {len(names) - others} of {len(names)}' in made.lines[0]
  assert tasks.of(made.config) is (
      tasks.Task.INSTANCE if name.endswith('instances') else tasks.Task.PANOPTIC)
  assert "--override='task: SEMANTIC'" in made.lines[1] or 'task is INSTANCE' in made.lines[1]


def test_classes_of_other_data_are_things_until_changed(tmp_path):
  names = [category.name for category in catalog.built_in('coco_panoptic').categories]
  for given in (names[::-1], names[:70], [*names, 'more'], ['cat', 'dog']):
    made = _make(tmp_path, id2label=_labels(given))
    info = catalog.from_config(made.config)
    assert [category.name for category in info.categories] == given
    # Results have Hugging Face's numbers.
    assert [category.category_id for category in info.categories] == list(range(len(given)))
    assert all(category.isthing for category in info.categories)
    assert f'The {len(given)} classes are of no known data set: all are things' in made.lines[0]
  path = made.write(str(tmp_path / 'out'))
  changed = deeplab_tf.load_config(path, [
      'eval_dataset_options { label_folders { categories: ['
      '{ id: 0 name: "cat" isthing: true }, { id: 1 name: "dog" }] } }'])
  assert [c.isthing for c in catalog.from_config(changed).categories] == [True, False]


def test_the_label_divisor_exceeds_the_number_of_queries(tmp_path):
  for queries, divisor in ((100, 256), (255, 256), (256, 512), (700, 1024)):
    info = catalog.from_config(_make(tmp_path, num_queries=queries).config)
    assert info.label_divisor == divisor


# === Errors ===


@pytest.mark.parametrize('values,words', [
    ({'model_type': 'maskformer'}, 'model_type is maskformer: only "mask2former" can'),
    ({'backbone_config': None}, 'has no object "backbone_config"'),
    ({'backbone': {'model_type': 'focalnet'}}, 'backbone_config: model_type is focalnet: only '
     '"swin" and "resnet" can be converted'),
    ({'backbone': {'model_type': 'swin', 'patch_size': 8}}, 'backbone_config: patch_size is 8'),
    ({'backbone': {'model_type': 'swin', 'qkv_bias': False}}, 'qkv_bias is False: only true can'),
    ({'backbone': {'model_type': 'swin', 'depths': [2, 2]}}, r'depths is \[2, 2\]: it must'),
    ({'backbone': {'model_type': 'swin', 'drop_path_rate': 1}}, 'drop_path_rate is 1: it must'),
    ({'backbone': {**_RESNET, 'layer_type': 'basic'}}, 'layer_type is basic'),
    ({'backbone': {**_RESNET, 'hidden_sizes': [32, 64, 128, 250]}}, 'only sizes can be converted'),
    ({'feature_strides': [4, 8, 16]}, 'feature_strides is'),
    ({'activation_function': 'gelu'}, 'activation_function is gelu'),
    ({'num_queries': 0}, 'num_queries is 0: it must be a whole number'),
    ({'num_queries': '100'}, 'num_queries is 100: it must be a whole number'),
    ({'decoder_layers': 1}, 'decoder_layers is 1: it must be at least 2'),
    ({'pre_norm': 1}, 'pre_norm is 1: it must be true or false'),
    ({'id2label': {'0': 'a', '2': 'b'}}, 'id2label must have names for the numbers'),
    ({'id2label': {'0': 5}}, 'id2label must have names'),
    ({'id2label': ['a']}, 'id2label must have names'),
])
def test_what_cannot_be_converted_is_named_in_one_line(tmp_path, values, words):
  with pytest.raises(ConfigError, match=f'config.json: .*{words}') as error:
    _make(tmp_path, **values)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('content', [b'', b'{"a": ', b'[]', b'\xff', b'[' * 100000, b'null'])
def test_a_corrupt_file_is_refused_in_one_line(tmp_path, content):
  (tmp_path / 'config.json').write_bytes(content)
  with pytest.raises(ConfigError, match='config.json: (cannot be read as|is not a) JSON') as error:
    huggingface_config.make(str(tmp_path))
  assert '\n' not in str(error.value)


def test_a_folder_without_config_is_named(tmp_path):
  with pytest.raises(MissingFileError, match='config.json: no such file; --source=huggingface'):
    huggingface_config.make(str(tmp_path))


@pytest.mark.parity
@pytest.mark.parametrize('variant', recorded.TINY)
def test_the_config_of_a_real_model_builds_it(variant):
  made = huggingface_config.make(str(recorded.folder(variant) / 'hf' / 'model.safetensors'))
  model = deeplab_tf.build_model(made.config)
  names = [category.name for category in model.dataset_info.categories]
  assert names == [f'LABEL_{i}' for i in range({'r50': 7, 'swin': 9}[variant])]
