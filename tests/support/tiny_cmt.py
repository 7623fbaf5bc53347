"""A tiny CMT-DeepLab on the synthetic data set: the tiny MaX-DeepLab with another network."""

import pathlib

import tiny

# Fields of cmt_deeplab that switch its parts.
NO_CLUSTERING = 'clustering_update: false'
NO_REFERENCES = 'num_reference_points: 0 coordinate_convolutions: false'
NO_COORDINATES = 'coordinate_convolutions: false'
BASELINE_DECODER = 'stronger_decoder: false'
RECURSIVE = 'recursive_feature_network: true'
# Without reference masks there is nothing to approximate.
NO_APPROXIMATION = 'clear: "trainer_options.loss_options.mask_approximation_loss"'


def override(*fields: str, backbone: str = '') -> str:
  """Returns an override that sets fields of cmt_deeplab and of the backbone."""
  return (f'model_options {{ cmt_deeplab {{ {" ".join(fields)} }} backbone {{ {backbone} }} }}')


def config_text() -> str:
  """Returns a textproto."""
  text = tiny.config_text()
  for old, new in (
      ('  max_deeplab {', '  cmt_deeplab {\n    num_reference_points: 3\n'
       '    instance_discrimination_sample_k: 64\n    decoder_blocks_per_stage: 1'),
      ('name: "max_deeplab_s"', 'name: "axial_resnet50"\n    activation: GELU'),
      ('    pq_style_loss {', '    mask_approximation_loss { weight: 1.0 }\n    pq_style_loss {'),
      ('experiment_name: "tiny"', 'experiment_name: "tiny_cmt"')):
    assert text.count(old) == 1, old
    text = text.replace(old, new)
  return text


def write_config(folder) -> pathlib.Path:
  """Writes the config into a folder and returns its path."""
  path = pathlib.Path(folder) / 'tiny_cmt.textproto'
  path.write_text(config_text(), encoding='utf-8')
  return path
