"""Models of Hugging Face become checkpoints of this library, by both of their forms of names."""

import mask2former_checkpoints as recorded
import numpy as np
import pytest

import deeplab_tf
from deeplab_tf.checkpoints import convert, from_huggingface, load_reference_weights
from deeplab_tf.checkpoints.detectron_reader import read_detectron_weights
from deeplab_tf.checkpoints.safetensors_reader import read_safetensors_weights
from deeplab_tf.layers.variable_paths import variables_by_path


@pytest.mark.parity
@pytest.mark.parametrize('variant', recorded.TINY)
def test_a_real_model_gives_the_recorded_outputs(variant, tmp_path):
  path = recorded.folder(variant) / 'hf'
  model = deeplab_tf.build_model(recorded.tiny_config(variant))
  account = convert.convert(model, 'huggingface', str(path), str(tmp_path / 'ckpt-0')).account
  assert set(account.used) == set(variables_by_path(model)) and not account.initialized
  names = {name for names in account.used.values() for name in names}
  assert len(names) + len(account.skipped) == len(read_safetensors_weights(str(path)))
  recorded.assert_outputs_are_recorded(model, variant)


@pytest.mark.parity
@pytest.mark.parametrize('variant', recorded.TINY)
def test_both_programs_checkpoints_of_a_model_set_the_same_values(variant):
  folder, model = recorded.folder(variant), deeplab_tf.build_model(recorded.tiny_config(variant))
  load_reference_weights(model, 'mask2former',
                         read_detectron_weights(str(folder / 'model_final.pkl')))
  values = {path: v.numpy() for path, v in variables_by_path(model).items()}
  for variable in model.variables:
    variable.assign(variable * 0)
  load_reference_weights(model, 'huggingface', read_safetensors_weights(str(folder / 'hf')))
  for path, variable in variables_by_path(model).items():
    np.testing.assert_array_equal(variable, values[path], path)


def test_what_is_no_weight_is_left_out():
  encoder = 'model.pixel_level_module.encoder'
  names = ['criterion.empty_weight', f'{encoder}.swin.layernorm.weight',
           f'{encoder}.layernorm.bias',
           f'{encoder}.encoder.layers.0.blocks.0.attention.self.relative_position_index',
           f'{encoder}.embedder.embedder.normalization.num_batches_tracked']
  assert not from_huggingface.weight_names(names)
  kept = ['model.transformer_module.decoder.layernorm.weight', 'other.layernorm.bias']
  assert from_huggingface.weight_names(kept) == {name: name for name in kept}
