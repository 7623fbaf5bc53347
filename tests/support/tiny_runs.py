"""A small MaX-DeepLab on the `shapes` data set, for tests that train."""

import pathlib

CONFIG = """
experiment_name: "tiny"
model_options {
  backbone {
    name: "max_deeplab_s" output_stride: 16 stem_width_multiplier: 0.125
    backbone_width_multiplier: 0.125 backbone_layer_multiplier: 0.34 drop_path_keep_prob: 0.8
  }
  max_deeplab {
    pixel_space_head { output_channels: 16 head_channels: 16 }
    num_queries: 16 memory_channels: 32 feed_forward_channels: 32 transformer_channels: 16
  }
}
trainer_options {
  num_checkpoints_to_keep: 2 save_checkpoints_steps: 2 save_summaries_steps: 1
  steps_per_loop: 10
  loss_options {
    pq_style_loss { weight: 3 }
    mask_id_cross_entropy_loss { weight: 0.3 }
    instance_discrimination_loss { weight: 1 }
  }
  solver_options {
    base_learning_rate: 0.001 training_number_of_steps: 4 warmup_steps: 1
    backbone_learning_rate_multiplier: 0.5 use_gradient_clipping: true
  }
}
train_dataset_options {
  dataset: "shapes" batch_size: 2 crop_size: 65 crop_size: 65 max_thing_id: 16
  shuffle_buffer_size: 4 shapes { split: "train" num_images: 16 }
}
eval_dataset_options {
  dataset: "shapes" batch_size: 2 crop_size: 129 crop_size: 161
  shapes { split: "val" num_images: 3 }
}
evaluator_options {
  eval_interval: 4 num_vis_samples: 2 transformer_class_confidence_threshold: 0.1
  pixel_confidence_threshold: 0.05
}
"""


def write_config(folder: pathlib.Path) -> str:
  """Writes the config into a folder and returns its path."""
  path = pathlib.Path(folder) / 'tiny.textproto'
  path.write_text(CONFIG, encoding='utf-8')
  return str(path)


def read_scalars(folder: pathlib.Path) -> dict:
  """Returns tag -> {step: value} of the event files in a folder; pictures and texts as None."""
  import tensorflow as tf

  from deeplab_tf.reports import event_files
  found = {}
  for path in event_files.files_in(pathlib.Path(folder)):
    for event in event_files.events(path):
      for value in event.summary.value:
        tensor = tf.make_ndarray(value.tensor)
        is_scalar = tensor.shape == () and tensor.dtype.kind == 'f'
        found.setdefault(value.tag, {})[event.step] = float(tensor) if is_scalar else None
  return found
