"""A tiny Mask2Former on the `shapes` data set, for tests."""

import pathlib

CONFIG = """
experiment_name: "tiny_mask2former"
model_options {
  image_normalization: IMAGENET
  backbone {
    name: "torchvision_resnet50"
    resnet { stem_channels: 8 middle_channels: 8 stage_channels: 16 num_blocks: [1, 1, 1, 1] }
  }
  mask2former {
    num_queries: 12 hidden_channels: 32 mask_channels: 16 num_layers: 3 num_heads: 4
    feed_forward_channels: 48
    pixel_decoder { channels: 64 num_layers: 1 feed_forward_channels: 48 num_points: 2 }
  }
}
trainer_options {
  num_checkpoints_to_keep: 2 save_checkpoints_steps: 2 save_summaries_steps: 1
  loss_options { mask2former_loss { num_points: 64 } }
  solver_options { base_learning_rate: 0.001 training_number_of_steps: 4 }
}
train_dataset_options {
  dataset: "shapes" batch_size: 2 crop_size: [64, 64] max_thing_id: 16
  shuffle_buffer_size: 4 shapes { split: "train" num_images: 16 }
}
eval_dataset_options {
  dataset: "shapes" batch_size: 2 crop_size: [64, 96] shapes { split: "val" num_images: 3 }
}
evaluator_options {
  eval_interval: 4 num_vis_samples: 2
  mask2former_postprocessing { object_mask_threshold: 0 overlap_threshold: 0 }
}
"""

# Overrides for a Swin backbone with drop path.
SWIN = """
clear: "model_options.backbone.resnet"
model_options {
  backbone {
    name: "swin_tiny" drop_path_keep_prob: 0.5
    swin {
      embedding_channels: 16 num_blocks: [2, 1, 1, 1] num_heads: [1, 2, 4, 8] window_size: 4
    }
  }
}
"""


def write_config(folder) -> pathlib.Path:
  """Writes the config into a folder and returns its path."""
  path = pathlib.Path(folder) / 'tiny_mask2former.textproto'
  path.write_text(CONFIG, encoding='utf-8')
  return path
