"""A tiny MaX-DeepLab on the synthetic data set, for tests that need a whole experiment."""

import pathlib

_TEXT = """
experiment_name: "tiny"
model_options {{
  backbone {{
    name: "max_deeplab_s"
    output_stride: 16
    stem_width_multiplier: 0.25
    backbone_width_multiplier: 0.125
    backbone_layer_multiplier: 0.34
  }}
  decoder {{
    feature_key: "feature_semantic"
    decoder_channels: 16
    aspp_channels: 16
    atrous_rates: 1
    atrous_rates: 2
    atrous_rates: 3
  }}
  max_deeplab {{
    pixel_space_head {{ output_channels: 16 head_channels: 16 }}
    auxiliary_low_level {{ feature_key: "res3" channels_project: 8 }}
    auxiliary_low_level {{ feature_key: "res2" channels_project: 8 }}
    auxiliary_semantic_head {{ output_channels: 10 head_channels: 16 }}
    num_queries: 16
    memory_channels: 32
    feed_forward_channels: 64
    transformer_channels: 16
  }}
}}
trainer_options {{
  save_checkpoints_steps: 2
  save_summaries_steps: 1
  steps_per_loop: 1
  loss_options {{
    semantic_loss {{ name: "softmax_cross_entropy" weight: 1.0 }}
    pq_style_loss {{ weight: 3.0 }}
    mask_id_cross_entropy_loss {{ weight: 0.3 }}
    instance_discrimination_loss {{ weight: 1.0 }}
  }}
  solver_options {{ base_learning_rate: 0.001 training_number_of_steps: 2 }}
}}
train_dataset_options {{
  dataset: "shapes"
  batch_size: 2
  crop_size: {height}
  crop_size: {width}
  max_thing_id: 16
  shapes {{ split: "train" num_images: 8 }}
  shuffle_buffer_size: 8
}}
eval_dataset_options {{
  dataset: "shapes"
  batch_size: 2
  crop_size: {height}
  crop_size: {width}
  shapes {{ split: "val" num_images: 4 }}
}}
evaluator_options {{
  transformer_class_confidence_threshold: {class_threshold}
  pixel_confidence_threshold: {pixel_threshold}
}}
"""


def config_text(height: int = 65, width: int = 81, class_threshold: float = 0.0,
                pixel_threshold: float = 0.0) -> str:
  """Returns a textproto.

  Args:
    height: Of the crop.
    width: Of the crop.
    class_threshold: 0 keeps all queries, so that an untrained model predicts segments.
    pixel_threshold: 0 keeps all pixels.
  """
  return _TEXT.format(height=height, width=width, class_threshold=class_threshold,
                      pixel_threshold=pixel_threshold)


def write_config(folder, **options) -> pathlib.Path:
  """Writes `config_text(**options)` to tiny.textproto in a folder and returns its path."""
  path = pathlib.Path(folder) / 'tiny.textproto'
  path.write_text(config_text(**options), encoding='utf-8')
  return path
