"""Finds the weight of Mask2Former's or MaskFormer's PyTorch code for each variable of a model.

A checkpoint is that of a whole Mask2Former or MaskFormer, or of its backbone alone, pre-trained on
ImageNet: a ResNet by torchvision's or Detectron2's names, or a Swin by its authors'. The kind is
decided by the names in the file; in `origins` the weights have the names of the newest released
code.
"""

import re
from typing import Callable, Collection, Iterable, Union

import numpy as np

from deeplab_tf.checkpoints import origins as origins_lib
from deeplab_tf.transformer_decoders.masked_attention_decoder import (
    MaskedAttentionDecoder,
    Scales,
)

_Rule = tuple[str, Union[str, Callable[[re.Match], str]]]

_PIXELS = 'sem_seg_head.pixel_decoder'
_ENCODER = f'{_PIXELS}.transformer.encoder.layers'
_PREDICTOR = 'sem_seg_head.predictor'
_BLOCK = r'^backbone/stages/(\d+)/blocks/(\d+)'

# From the path of a variable to its name: the first rule that matches, then all of _VARIABLES.
_PARTS: tuple[_Rule, ...] = (
    (r'^backbone/stem/(conv\d)/', r'backbone.stem.\1.'),
    (r'^backbone/stem/', 'backbone.stem.conv1.'),
    (r'^backbone/stages/(\d+)/(\d+)/', lambda m: f'backbone.res{int(m[1]) + 2}.{m[2]}.'),
    (r'^backbone/patch_embedding/projection/', 'backbone.patch_embed.proj.'),
    (r'^backbone/patch_embedding/', 'backbone.patch_embed.'),
    (rf'{_BLOCK}/attention/position_bias$',
     r'backbone.layers.\1.blocks.\2.attn.relative_position_bias_table'),
    (rf'{_BLOCK}/attention/projection/', r'backbone.layers.\1.blocks.\2.attn.proj.'),
    (rf'{_BLOCK}/attention/', r'backbone.layers.\1.blocks.\2.attn.'),
    (rf'{_BLOCK}/', r'backbone.layers.\1.blocks.\2.'),
    (r'^backbone/stages/(\d+)/merging/', r'backbone.layers.\1.downsample.'),
    (r'^backbone/output_norms/(\d+)/', r'backbone.norm\1.'),
    (r'^pixel_decoder/input_projections/(\d+)/norm/', rf'{_PIXELS}.input_proj.\1.1.'),
    (r'^pixel_decoder/input_projections/(\d+)/', rf'{_PIXELS}.input_proj.\1.0.'),
    (r'^pixel_decoder/level_embedding$', f'{_PIXELS}.transformer.level_embed'),
    (r'^pixel_decoder/encoder_layers/(\d+)/attention/offsets/',
     rf'{_ENCODER}.\1.self_attn.sampling_offsets.'),
    (r'^pixel_decoder/encoder_layers/(\d+)/attention/(value|output)s/',
     rf'{_ENCODER}.\1.self_attn.\2_proj.'),
    (r'^pixel_decoder/encoder_layers/(\d+)/attention/', rf'{_ENCODER}.\1.self_attn.'),
    (r'^pixel_decoder/encoder_layers/(\d+)/fc', rf'{_ENCODER}.\1.linear'),
    (r'^pixel_decoder/encoder_layers/(\d+)/', rf'{_ENCODER}.\1.'),
    (r'^pixel_decoder/lateral/', f'{_PIXELS}.adapter_1.'),
    (r'^pixel_decoder/fuse/', f'{_PIXELS}.layer_1.'),
    (r'^pixel_decoder/mask_projection/', f'{_PIXELS}.mask_features.'),
    # FPN, with or without a transformer encoder.
    (r'^pixel_decoder/laterals/(\d)/', lambda m: f'{_PIXELS}.adapter_{3 - int(m[1])}.'),
    (r'^pixel_decoder/outputs/(\d)/', lambda m: f'{_PIXELS}.layer_{4 - int(m[1])}.'),
    (r'^pixel_decoder/encoder/input_projection/', f'{_PIXELS}.input_proj.'),
    (r'^pixel_decoder/encoder/encoder_layers/(\d+)/attention/', rf'{_ENCODER}.\1.self_attn.'),
    (r'^pixel_decoder/encoder/encoder_layers/(\d+)/fc', rf'{_ENCODER}.\1.linear'),
    (r'^pixel_decoder/encoder/encoder_layers/(\d+)/', rf'{_ENCODER}.\1.'),
    (r'^transformer_decoder/query_features$', f'{_PREDICTOR}.query_feat.weight'),
    (r'^transformer_decoder/query_positions$', f'{_PREDICTOR}.query_embed.weight'),
    (r'^transformer_decoder/level_embedding$', f'{_PREDICTOR}.level_embed.weight'),
    (r'^transformer_decoder/input_projections/', f'{_PREDICTOR}.input_proj.'),
    (r'^transformer_decoder/layers/(\d+)/cross_attention/',
     rf'{_PREDICTOR}.transformer_cross_attention_layers.\1.multihead_attn.'),
    (r'^transformer_decoder/layers/(\d+)/self_attention/',
     rf'{_PREDICTOR}.transformer_self_attention_layers.\1.self_attn.'),
    (r'^transformer_decoder/layers/(\d+)/(cross|self)_norm/',
     rf'{_PREDICTOR}.transformer_\2_attention_layers.\1.norm.'),
    (r'^transformer_decoder/layers/(\d+)/fc', rf'{_PREDICTOR}.transformer_ffn_layers.\1.linear'),
    (r'^transformer_decoder/layers/(\d+)/feed_forward_norm/',
     rf'{_PREDICTOR}.transformer_ffn_layers.\1.norm.'),
    (r'^transformer_decoder/norm/', f'{_PREDICTOR}.decoder_norm.'),
    (r'^transformer_decoder/class_head/', f'{_PREDICTOR}.class_embed.'),
    (r'^transformer_decoder/mask_head/', f'{_PREDICTOR}.mask_embed.layers.'),
)
# The same for MaskFormer's transformer decoder; its other parts have the names above.
_MASKFORMER_LAYER = f'{_PREDICTOR}.transformer.decoder.layers'
_MASKFORMER_PARTS: tuple[_Rule, ...] = (
    (r'^transformer_decoder/input_projections/0/', f'{_PREDICTOR}.input_proj.'),
    (r'^transformer_decoder/layers/(\d+)/cross_attention/',
     rf'{_MASKFORMER_LAYER}.\1.multihead_attn.'),
    (r'^transformer_decoder/layers/(\d+)/self_attention/', rf'{_MASKFORMER_LAYER}.\1.self_attn.'),
    (r'^transformer_decoder/layers/(\d+)/self_norm/', rf'{_MASKFORMER_LAYER}.\1.norm1.'),
    (r'^transformer_decoder/layers/(\d+)/cross_norm/', rf'{_MASKFORMER_LAYER}.\1.norm2.'),
    (r'^transformer_decoder/layers/(\d+)/feed_forward_norm/', rf'{_MASKFORMER_LAYER}.\1.norm3.'),
    (r'^transformer_decoder/layers/(\d+)/fc', rf'{_MASKFORMER_LAYER}.\1.linear'),
    (r'^transformer_decoder/norm/', f'{_PREDICTOR}.transformer.decoder.norm.'),
)
_VARIABLES: tuple[_Rule, ...] = (
    (r'(kernel|gamma)$', 'weight'),
    (r'beta$', 'bias'),
    (r'moving_mean$', 'running_mean'),
    (r'moving_variance$', 'running_var'),
    (r'/', '.'),
)
# Queries, keys and values of attentions, which are one tensor in the checkpoint, in this order, and
# the projection of their outputs.
_ATTENTION = r'^(transformer_decoder/.*_attention|pixel_decoder/encoder/.*/attention)'
_PROJECTION = re.compile(rf'{_ATTENTION}/(query|key|value)/(kernel|bias)$')
_OUTPUT_PROJECTION = re.compile(rf'{_ATTENTION}/output_projection/')
_PROJECTIONS = ('query', 'key', 'value')

# From older names to those of the newest released code.
_OLDER: tuple[_Rule, ...] = (
    (rf'^{re.escape(_PREDICTOR)}\.static_query\.', f'{_PREDICTOR}.query_feat.'),
    # MaskFormer had the layers of the pixel decoder in the head itself.
    (r'^sem_seg_head\.(?!predictor\.|pixel_decoder\.)', f'{_PIXELS}.'),
)
# From torchvision's names of a ResNet.
_TORCHVISION: tuple[_Rule, ...] = (
    (r'^conv1\.', 'backbone.stem.conv1.'),
    (r'^bn1\.', 'backbone.stem.conv1.norm.'),
    (r'^layer(\d+)\.(\d+)\.downsample\.0\.',
     lambda m: f'backbone.res{int(m[1]) + 1}.{m[2]}.shortcut.'),
    (r'^layer(\d+)\.(\d+)\.downsample\.1\.',
     lambda m: f'backbone.res{int(m[1]) + 1}.{m[2]}.shortcut.norm.'),
    (r'^layer(\d+)\.(\d+)\.bn(\d+)\.',
     lambda m: f'backbone.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm.'),
    (r'^layer(\d+)\.', lambda m: f'backbone.res{int(m[1]) + 1}.'),
)
# From a backbone's own names.
_BACKBONE: tuple[_Rule, ...] = ((r'^', 'backbone.'),)

# Constants of the network, and weights of the training alone.
_CONSTANTS = re.compile(r'(^|\.)(relative_position_index|attn_mask|num_batches_tracked|pixel_mean|'
                        r'pixel_std|criterion\.empty_weight)$')
# The classifier of a backbone that was pre-trained alone. A Swin has a norm before it, which is
# not that of the last feature.
_CLASSIFIER = re.compile(r'^(fc|stem\.fc|norm|head)\.(weight|bias)$')


def may_lack(path: str, names: Collection[str]) -> bool:
  """Returns whether a checkpoint with these weights may lack a variable.

  One of a backbone alone lacks everything else, and the norms of a Swin's features.
  """
  if any(name.startswith('sem_seg_head.') for name in names):
    return False
  return not path.startswith('backbone/') or path.startswith('backbone/output_norms/')


def weight_names(names: Iterable[str]) -> dict[str, str]:
  """Finds the weights among the names in a checkpoint.

  Args:
    names: All names in the checkpoint; constants and the classifier of a backbone are left out.

  Returns:
    The names in the checkpoint -> those that `origins` uses.
  """
  names = [name for name in names if not _CONSTANTS.search(name)]
  if any(name.startswith('sem_seg_head.') for name in names):
    return {name: _first(_OLDER, name) for name in names}
  rules = ()
  if 'conv1.weight' in names:
    rules = _TORCHVISION
  elif not any(name.startswith('backbone.') for name in names):
    rules = _BACKBONE
  return {name: _first(rules, name) for name in names if not _CLASSIFIER.search(name)}


def origins(path: str, model=None) -> list[origins_lib.Origin]:
  """Returns the origin of the variable at a path; see variable_paths.variables_by_path."""
  is_maskformer = _is_maskformer(model)
  projection = _PROJECTION.match(path)
  if projection:
    name = _name(f'{projection[1]}/in_proj_{projection[3]}', is_maskformer)
    return [origins_lib.part(name, _PROJECTIONS.index(projection[2]), 3, _transform(path))]
  path_there = _OUTPUT_PROJECTION.sub(r'\1/out_proj/', path)
  return [origins_lib.whole(_name(path_there, is_maskformer), _transform(path))]


def _is_maskformer(model) -> bool:
  """Returns whether queries read the backbone's last feature, as in MaskFormer alone."""
  decoder = getattr(model, 'transformer_decoder', None)
  return (isinstance(decoder, MaskedAttentionDecoder)
          and decoder.scales is Scales.BACKBONE_STRIDE_32)


def _name(path: str, is_maskformer: bool) -> str:
  name = _first((*_MASKFORMER_PARTS, *_PARTS) if is_maskformer else _PARTS, path)
  for pattern, replacement in _VARIABLES:
    name = re.sub(pattern, replacement, name)
  return name


def _first(rules: Iterable[_Rule], text: str) -> str:
  """Applies the first rule that matches."""
  for pattern, replacement in rules:
    text, count = re.subn(pattern, replacement, text)
    if count:
      break
  return text


def _transform(path: str) -> Callable[[np.ndarray], np.ndarray]:
  return _kernel if path.endswith('/kernel') else origins_lib.as_it_is


def _kernel(value: np.ndarray) -> np.ndarray:
  """Converts the kernel of a convolution or a linear layer, whose first axis is the output's."""
  return value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
