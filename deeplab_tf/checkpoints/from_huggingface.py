"""Finds the weight of Hugging Face's Mask2Former for each variable of a model.

The names are those in files, which transformers 4 also uses in memory; the names that version 5 has
in memory are understood as well. They follow from those of the released code (from_mask2former),
except that some projections are three tensors here and one there.
"""

import re
from typing import Collection, Iterable

from deeplab_tf.checkpoints import from_mask2former
from deeplab_tf.checkpoints.origins import Origin, Piece

_ENCODER = 'model.pixel_level_module.encoder'
_DECODER = 'model.pixel_level_module.decoder'
_TRANSFORMER = 'model.transformer_module'
_LAYERS = f'{_TRANSFORMER}.decoder.layers'
_SWIN = rf'^({re.escape(_ENCODER)}\.encoder\.layers\.\d+\.blocks\.\d+)'

# From the released code's names to those here; the first rule that matches is applied, once.
_RULES = (
    (r'^backbone\.patch_embed\.proj\.', f'{_ENCODER}.embeddings.patch_embeddings.projection.'),
    (r'^backbone\.patch_embed\.norm\.', f'{_ENCODER}.embeddings.norm.'),
    (r'^backbone\.layers\.(\d+\.blocks\.\d+)\.norm1\.',
     rf'{_ENCODER}.encoder.layers.\1.layernorm_before.'),
    (r'^backbone\.layers\.(\d+\.blocks\.\d+)\.norm2\.',
     rf'{_ENCODER}.encoder.layers.\1.layernorm_after.'),
    (r'^backbone\.layers\.(\d+\.blocks\.\d+)\.attn\.proj\.',
     rf'{_ENCODER}.encoder.layers.\1.attention.output.dense.'),
    (r'^backbone\.layers\.(\d+\.blocks\.\d+)\.attn\.',
     rf'{_ENCODER}.encoder.layers.\1.attention.self.'),
    (r'^backbone\.layers\.(\d+\.blocks\.\d+)\.mlp\.fc1\.',
     rf'{_ENCODER}.encoder.layers.\1.intermediate.dense.'),
    (r'^backbone\.layers\.(\d+\.blocks\.\d+)\.mlp\.fc2\.',
     rf'{_ENCODER}.encoder.layers.\1.output.dense.'),
    (r'^backbone\.layers\.', f'{_ENCODER}.encoder.layers.'),
    (r'^backbone\.norm(\d+)\.',
     lambda m: f'{_ENCODER}.hidden_states_norms.stage{int(m[1]) + 1}.'),
    (r'^backbone\.stem\.conv1\.norm\.', f'{_ENCODER}.embedder.embedder.normalization.'),
    (r'^backbone\.stem\.conv1\.', f'{_ENCODER}.embedder.embedder.convolution.'),
    (r'^backbone\.res(\d+)\.(\d+)\.(conv\d+|shortcut)\.(norm\.)?', lambda m: _residual_block(m)),
    (r'^sem_seg_head\.pixel_decoder\.input_proj\.', f'{_DECODER}.input_projections.'),
    (r'^sem_seg_head\.pixel_decoder\.transformer\.level_embed$', f'{_DECODER}.level_embed'),
    (r'^sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.linear',
     rf'{_DECODER}.encoder.layers.\1.fc'),
    (r'^sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.norm1\.',
     rf'{_DECODER}.encoder.layers.\1.self_attn_layer_norm.'),
    (r'^sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\.norm2\.',
     rf'{_DECODER}.encoder.layers.\1.final_layer_norm.'),
    (r'^sem_seg_head\.pixel_decoder\.transformer\.', f'{_DECODER}.'),
    (r'^sem_seg_head\.pixel_decoder\.(adapter|layer)_1\.norm\.', rf'{_DECODER}.\1_1.1.'),
    (r'^sem_seg_head\.pixel_decoder\.(adapter|layer)_1\.', rf'{_DECODER}.\1_1.0.'),
    (r'^sem_seg_head\.pixel_decoder\.mask_features\.', f'{_DECODER}.mask_projection.'),
    (r'^sem_seg_head\.predictor\.transformer_(self|cross)_attention_layers\.(\d+)\.norm\.',
     rf'{_LAYERS}.\2.\1_attn_layer_norm.'),
    (r'^sem_seg_head\.predictor\.transformer_(self|cross)_attention_layers\.(\d+)\.'
     r'(self_attn|multihead_attn)\.', rf'{_LAYERS}.\2.\1_attn.'),
    (r'^sem_seg_head\.predictor\.transformer_ffn_layers\.(\d+)\.linear', rf'{_LAYERS}.\1.fc'),
    (r'^sem_seg_head\.predictor\.transformer_ffn_layers\.(\d+)\.norm\.',
     rf'{_LAYERS}.\1.final_layer_norm.'),
    (r'^sem_seg_head\.predictor\.decoder_norm\.', f'{_TRANSFORMER}.decoder.layernorm.'),
    (r'^sem_seg_head\.predictor\.query_feat\.', f'{_TRANSFORMER}.queries_features.'),
    (r'^sem_seg_head\.predictor\.query_embed\.', f'{_TRANSFORMER}.queries_embedder.'),
    (r'^sem_seg_head\.predictor\.level_embed\.', f'{_TRANSFORMER}.level_embed.'),
    (r'^sem_seg_head\.predictor\.mask_embed\.layers\.(\d+)\.',
     rf'{_TRANSFORMER}.decoder.mask_predictor.mask_embedder.\1.0.'),
    (r'^sem_seg_head\.predictor\.input_proj\.', f'{_TRANSFORMER}.input_projections.'),
    (r'^sem_seg_head\.predictor\.class_embed\.', 'class_predictor.'),
)
# Projections that are one tensor in the released code, and here one for each of query, key, value.
_SPLIT = (
    (re.compile(rf'{_SWIN}\.attention\.self\.qkv\.(weight|bias)$'),
     tuple(rf'\1.attention.self.{kind}.\2' for kind in ('query', 'key', 'value'))),
    (re.compile(rf'^({re.escape(_LAYERS)}\.\d+\.self_attn)\.in_proj_(weight|bias)$'),
     tuple(rf'\1.{kind}_proj.\2' for kind in 'qkv')),
)

# From the names that version 5 has in memory to those in files; all rules are applied.
_IN_MEMORY = (
    (rf'^{re.escape(_ENCODER)}\.swin\.', f'{_ENCODER}.'),
    (rf'{_SWIN}\.attention\.relative_position_bias\.', r'\1.attention.self.'),
    (rf'{_SWIN}\.attention\.q_proj\.', r'\1.attention.self.query.'),
    (rf'{_SWIN}\.attention\.k_proj\.', r'\1.attention.self.key.'),
    (rf'{_SWIN}\.attention\.v_proj\.', r'\1.attention.self.value.'),
    (rf'{_SWIN}\.attention\.o_proj\.', r'\1.attention.output.dense.'),
    (rf'{_SWIN}\.mlp\.fc1\.', r'\1.intermediate.dense.'),
    (rf'{_SWIN}\.mlp\.fc2\.', r'\1.output.dense.'),
)
# Constants, weights of the training alone, and the norm before a Swin's classifier.
_NO_WEIGHTS = re.compile(
    r'(^|\.)(relative_position_index|num_batches_tracked|criterion\.empty_weight)$'
    rf'|^{re.escape(_ENCODER)}\.layernorm\.(weight|bias)$')


def may_lack(path: str, names: Collection[str]) -> bool:
  """Returns whether a checkpoint may lack a variable: never."""
  del path, names
  return False


def weight_names(names: Iterable[str]) -> dict[str, str]:
  """Finds the weights among the names in a checkpoint.

  Args:
    names: All names in the checkpoint; constants and what the network does not use are left out.

  Returns:
    The names in the checkpoint -> those that `origins` uses.
  """
  found = {}
  for name in names:
    own = name
    for pattern, replacement in _IN_MEMORY:
      own = re.sub(pattern, replacement, own)
    if not _NO_WEIGHTS.search(own):
      found[name] = own
  return found


def origins(path: str, model=None) -> list[Origin]:
  """Returns the origin of the variable at a path; see variable_paths.variables_by_path."""
  return [origin._replace(pieces=tuple(own for piece in origin.pieces for own in _pieces(piece)))
          for origin in from_mask2former.origins(path, model)]


def _pieces(piece: Piece) -> tuple[Piece, ...]:
  """Returns what a tensor of the released code, or a part of it, is here."""
  name = piece.name
  for pattern, replacement in _RULES:
    name, count = re.subn(pattern, replacement, name)
    if count:
      break
  for pattern, names in _SPLIT:
    match = pattern.match(name)
    if match and piece.count == 1:
      return tuple(Piece(match.expand(own)) for own in names)
    if match:
      return (Piece(match.expand(names[piece.index])),)
  return (piece._replace(name=name),)


def _residual_block(match: re.Match) -> str:
  """Returns the beginning of a name in a ResNet's block."""
  stage, block, layer, norm = match.groups()
  layer = layer if layer == 'shortcut' else f'layer.{int(layer.removeprefix("conv")) - 1}'
  kind = 'normalization' if norm else 'convolution'
  return f'{_ENCODER}.encoder.stages.{int(stage) - 2}.layers.{block}.{layer}.{kind}.'
