"""Finds DeepLab2's weight for each variable of a model.

DeepLab2 names a weight by the path of private attributes that lead to it, and so does
`variables_by_path` with public ones; the rules below turn one into the other.
"""

import functools
import re
from typing import Collection, Iterable

import numpy as np

from deeplab_tf.checkpoints import origins as origins_lib
from deeplab_tf.layers.hourglass import Hourglass

_SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'

# Rules from parts of a model to the top level of a checkpoint; only the first match is applied.
_PARTS = (
    (r'^queries$', 'encoder/memory_feature'),
    (r'^mask_head/(class|mask)_feature/', r'encoder/_\1_feature_extra/'),
    (r'^mask_head/class_projection/', 'transformer_class_head/_conv/'),
    (r'^mask_head/mask_projection/', 'transformer_mask_head/'),
    (r'^mask_head/pixel_head/last/', 'pixel_space_head/final_conv/'),
    (r'^mask_head/pixel_head/block/', 'pixel_space_head/conv_block/_conv1_bn_act/'),
    (r'^mask_head/norm_pixels/', 'pixel_space_feature_batch_norm/'),
    (r'^mask_head/norm_masks/', 'pixel_space_mask_batch_norm/'),
    (r'^semantic_head/last/', 'semantic_last_layer/'),
    (r'^semantic_head/block/', 'semantic_head_without_last_layer/_conv1_bn_act/'),
    (r'^(semantic|instance)_decoder/', r'\1_decoder/'),
    (r'^center_head/last/', 'instance_center_head_last_layer/'),
    (r'^center_head/block/', 'instance_center_head_without_last_layer/_conv1_bn_act/'),
    (r'^offset_head/last/', 'instance_regression_head_last_layer/'),
    (r'^offset_head/block/', 'instance_regression_head_without_last_layer/_conv1_bn_act/'),
    (r'^backbone/stem/', 'encoder/_stem/'),
    (r'^backbone/first_stage/', 'encoder/_stage1/'),
    (r'^backbone/stages/(\d+)/', lambda m: f'encoder/_stage{int(m[1]) + 2}/'),
    (r'^backbone/decoder/fuses/(\d+)/',
     lambda m: f'encoder/_decoder_stage{int(m[1]) + 1}_resized_fuse/'),
    (r'^backbone/decoder/stages/(\d+)/', lambda m: f'encoder/_decoder_stage{int(m[1]) + 1}/'),
)

# Rules for attributes inside a part; all matches are applied, in order.
_ATTRIBUTES = (
    (r'(^|/)blocks/(\d+)/', lambda m: f'{m[1]}_block{int(m[2]) + 1}/'),
    (r'(^|/)transformers/(\d+)/', lambda m: f'{m[1]}_block{int(m[2]) + 1}_transformer/'),
    (r'(^|/)aspp/', r'\1_aspp/'),
    (r'(^|/)branches/0/', r'\1_conv_bn_act/'),
    (r'(^|/)branches/(\d+)/', r'\1_aspp_conv\2/_conv_bn_act/'),
    (r'(^|/)pool/', r'\1_aspp_pool/_conv_bn_act/'),
    (r'(^|/)projection/', r'\1_proj_conv_bn_act/'),
    (r'(^|/)low_level/(\d+)/', lambda m: f'{m[1]}_low_level_conv{int(m[2]) + 1}/'),
    (r'(^|/)fusion/(\d+)/', lambda m: f'{m[1]}_fusion_conv{int(m[2]) + 1}/_conv1_bn_act/'),
    (r'(^|/)projections/(\d+)/', lambda m: f'{m[1]}_resized_conv_bn{int(m[2]) + 1}/'),
    (r'(^|/)(conv1|conv2|memory_conv1|pixel_conv1)/', r'\1_\2_bn_act/'),
    (r'(^|/)squeeze_excite/gate/', r'\1_squeeze_and_excite/_se_conv/'),
    (r'(^|/)(conv3|memory_conv3|pixel_conv3)/', r'\1_\2_bn/'),
    (r'(^|/)feed_forward1/', r'\1_memory_ffn_conv1_bn_act/'),
    (r'(^|/)feed_forward2/', r'\1_memory_ffn_conv2_bn/'),
    (r'(^|/)(memory_qkv|pixel_qkv)/', r'\1_\2_conv_bn/'),
    (r'(^|/)(attention|height_axis|width_axis|memory_attention|pixel_attention|shortcut)(?=/)',
     r'\1_\2'),
    (r'(^|/)(height_axis|width_axis)(?=/)', r'\1_\2'),
    (r'((?:memory|pixel)_attention)/norm_output/', r'\1/_batch_norm_retrieved_value/'),
    (r'(^|/)norm_output/', r'\1_batch_norm_retrieved_output/'),
    (r'(^|/)norm_(qkv|similarity)/', r'\1_batch_norm_\2/'),
    (r'(^|/)(query|key|value)_positions/', r'\1_\2_rpe/'),
    (r'(^|/)depthwise/depthwise_kernel$', r'\1_depthwise/_depthwise_conv/depthwise_kernel'),
    (r'(^|/)depthwise/', r'\1_depthwise/'),
    (r'(^|/)pointwise/', r'\1_pointwise/'),
    (r'(^|/)norm/', r'\1_batch_norm/'),
    (r'(?<!final_conv)(?<!_last_layer)(?<!_conv)(^|/)(kernel|bias)$', r'\1_conv/\2'),
)

# Other names of the same weight: by a layer's options, or by a second edge of the object graph.
_ALTERNATIVES = (
    ('_pixel_qkv_conv_bn', '_pixel_kv_conv_bn'),
    ('_memory_qkv_conv_bn', '_memory_query_conv_bn'),
    ('_resized_conv_bn', '_strided_conv_bn'),
    ('_conv2_bn_act', '_conv2_bn'),
    ('/embeddings', '/_embeddings'),
    ('/memory_feature', '/_memory_feature'),
)

# Entries of a DeepLab2 checkpoint that are not weights.
_NOT_WEIGHTS = re.compile(
    r'^(global_step|save_counter|_CHECKPOINTABLE_OBJECT_GRAPH|(backbone_)?optimizer(/|$))'
    r'|/\.OPTIMIZER_SLOT/')

# Prefix of names in checkpoints of the Model Garden's encoders.
_MODEL_GARDEN = 'backbone/_encoder/'


def keys(path: str, model=None) -> list[str]:
  """Returns DeepLab2's possible names of the variable at a path, the likeliest first.

  Args:
    path: Path of the variable, see variable_paths.variables_by_path.
    model: The model; None for a layer alone.
  """
  for pattern, replacement in (*_PARTS, *_decoder_parts(model)):
    path, count = re.subn(pattern, replacement, path)
    if count:
      break
  for pattern, replacement in _ATTRIBUTES:
    path = re.sub(pattern, replacement, path)
  found = [path]
  for usual, other in _ALTERNATIVES:
    found += [name.replace(usual, other) for name in found if usual in name]
  return found


def _decoder_parts(model):
  """Returns rules for the decoder outside of the backbone, whose steps continue those inside."""
  decoder = getattr(model, 'pixel_decoder', None)
  if not isinstance(decoder, Hourglass):
    return ()
  before = decoder.first_step - 1
  extra = f'encoder/_decoder_stage{before}_extra/' if before else 'encoder/_stage5_extra/'
  return (
      (r'^extra_stage/', extra),
      (r'^pixel_decoder/fuses/(\d+)/',
       lambda m: f'encoder/_decoder_stage{int(m[1]) + 1 + before}_extra_resized_fuse/'),
      (r'^pixel_decoder/stages/(\d+)/',
       lambda m: f'encoder/_decoder_stage{int(m[1]) + 1 + before}_extra/'),
  )


def may_lack(path: str, names: Collection[str]) -> bool:
  """Returns whether a checkpoint may lack a variable: a classifier's linear layer."""
  del names
  return path.startswith('classifier/')


def weight_names(names: Iterable[str]) -> dict[str, str]:
  """Finds the weights among the names in a checkpoint.

  From a checkpoint of the TensorFlow Model Garden only the encoder is taken, as in DeepLab2.

  Args:
    names: All names in the checkpoint; optimizer slots and counters are left out.

  Returns:
    The names in the checkpoint -> those that `keys` returns.
  """
  found = {name: name.removesuffix(_SUFFIX) for name in names if not _NOT_WEIGHTS.search(name)}
  if any(name.startswith(_MODEL_GARDEN) for name in found):
    return {name: 'encoder/' + own[len(_MODEL_GARDEN):] for name, own in found.items()
            if name.startswith(_MODEL_GARDEN)}
  return found


def origins(path: str, model) -> list[origins_lib.Origin]:
  """Returns the possible origins of the variable at a path: one for each name in DeepLab2."""
  transform = functools.partial(_transform, path, model)
  return [origins_lib.whole(key, transform) for key in keys(path, model)]


def _transform(path: str, model, value: np.ndarray) -> np.ndarray:
  """Converts a weight to the form of the variable at a path.

  Class logits go from DeepLab2's order (things, stuff, void) to ascending class ids.
  """
  if path.startswith('mask_head/class_projection/'):
    info = model.dataset_info
    order = list(info.thing_class_ids) + list(info.stuff_class_ids)
    if value.shape[-1] == len(order) + 1:
      source = [order.index(class_id) for class_id in info.class_ids] + [len(order)]
      value = value[..., source]
  if path == 'queries':
    value = value[:, :model.queries.shape[1]]
  return value
