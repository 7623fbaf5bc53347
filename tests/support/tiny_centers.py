"""A tiny Panoptic-DeepLab on the `shapes` data set, for tests."""

import pathlib

CROP = (65, 81)

CONFIG = """
experiment_name: "tiny_centers"
model_options {
  backbone {
    name: "resnet50" output_stride: 16 stem_width_multiplier: 0.25
    backbone_width_multiplier: 0.125 backbone_layer_multiplier: 0.34
  }
  decoder {
    feature_key: "res5" decoder_channels: 16 aspp_channels: 16 atrous_rates: [1, 2, 3]
  }
  panoptic_deeplab {
    low_level { feature_key: "res3" channels_project: 8 }
    low_level { feature_key: "res2" channels_project: 8 }
    semantic_head { output_channels: 10 head_channels: 16 }
    instance {
      low_level_override { feature_key: "res3" channels_project: 4 }
      low_level_override { feature_key: "res2" channels_project: 4 }
      instance_decoder_override {
        feature_key: "res5" decoder_channels: 8 aspp_channels: 8 atrous_rates: [1, 2, 3]
      }
      center_head { output_channels: 1 head_channels: 8 }
      regression_head { output_channels: 2 head_channels: 8 }
    }
  }
}
trainer_options {
  num_checkpoints_to_keep: 2 save_checkpoints_steps: 2 save_summaries_steps: 1
  loss_options {
    semantic_loss { name: "softmax_cross_entropy" weight: 1.0 top_k_percent: 0.2 }
    center_loss { name: "mse" weight: 200 }
    regression_loss { name: "l1" weight: 0.1 }
  }
  solver_options { base_learning_rate: 0.001 training_number_of_steps: 4 }
}
train_dataset_options {
  dataset: "shapes" batch_size: 2 crop_size: [65, 81] sigma: 2.5
  shuffle_buffer_size: 4 shapes { split: "train" num_images: 16 }
}
eval_dataset_options {
  dataset: "shapes" batch_size: 2 crop_size: [65, 81] shapes { split: "val" num_images: 3 }
}
evaluator_options {
  eval_interval: 4 num_vis_samples: 2 center_score_threshold: 0 keep_k_centers: 20
}
"""

# Overrides for a model without instance branch.
SEMANTIC = """
clear: "trainer_options.loss_options.center_loss"
clear: "trainer_options.loss_options.regression_loss"
model_options { panoptic_deeplab { instance { enable: false } } }
"""


def write_config(folder) -> pathlib.Path:
  """Writes the config into a folder and returns its path."""
  path = pathlib.Path(folder) / 'tiny_centers.textproto'
  path.write_text(CONFIG, encoding='utf-8')
  return path
