"""Folders of colored images and a small classifier on them, for tests of pre-training."""

import pathlib

import numpy as np
from PIL import Image

# Class -> color.
COLORS = {'blue': (40, 60, 210), 'red': (220, 50, 30)}

# The backbone is that of tiny_runs.
CONFIG = """
experiment_name: "tiny_classification"
model_options {
  backbone {
    name: "max_deeplab_s" output_stride: 16 stem_width_multiplier: 0.125
    backbone_width_multiplier: 0.125 backbone_layer_multiplier: 0.34 drop_path_keep_prob: 0.8
  }
  classification { dropout_rate: 0.1 }
}
trainer_options {
  num_checkpoints_to_keep: 2 save_checkpoints_steps: 4 save_summaries_steps: 1
  ema_decay: 0.6
  loss_options { classification_loss { label_smoothing: 0.1 } }
  solver_options {
    optimizer: "adam" base_learning_rate: 0.01 training_number_of_steps: 12
    batchnorm_momentum: 0.5
  }
}
train_dataset_options {
  dataset: "image_folders" batch_size: 4 crop_size: [33, 33]
  image_folders { image_dir: "%(folder)s/train" }
}
eval_dataset_options {
  dataset: "image_folders" batch_size: 4 crop_size: [33, 33]
  image_folders { image_dir: "%(folder)s/val" }
}
evaluator_options { eval_interval: 12 num_vis_samples: 2 best_checkpoint_metric: "top1" }
"""


def write_images(folder: pathlib.Path, per_class: int = 6, seed: int = 0) -> pathlib.Path:
  """Writes noisy images of one color into a sub-folder per class; every second is a PNG."""
  rng = np.random.default_rng(seed)
  for name, color in COLORS.items():
    (folder / name).mkdir(parents=True)
    for i in range(per_class):
      size = rng.integers(36, 60, 2)
      pixels = np.clip(np.array(color) + rng.normal(0, 30, (*size, 3)), 0, 255)
      path = folder / name / (f'{name}{i}.png' if i % 2 else f'{name}{i}.JPEG')
      Image.fromarray(pixels.astype(np.uint8)).save(path)
  return folder


def write_experiment(folder: pathlib.Path) -> str:
  """Writes train and val images and the config into a folder; returns the config's path."""
  write_images(folder / 'train', 6, 0)
  write_images(folder / 'val', 3, 1)
  path = folder / 'classification.textproto'
  path.write_text(CONFIG % {'folder': folder}, encoding='utf-8')
  return str(path)
