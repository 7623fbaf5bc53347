"""Synthetic outputs of a training step."""

import numpy as np


def make(total: float = 3.0, **changes):
  """Returns a StepOutput of numpy values with two loss terms."""
  from deeplab_tf.training.trainer import StepOutput
  scalar = np.float32
  output = StepOutput(
      losses={'a': scalar(total - 1), 'b': scalar(1), 'total': scalar(total)},
      unweighted_losses={'a': scalar((total - 1) / 2), 'b': scalar(1)},
      statistics={'mask_id_accuracy': scalar(0.5)},
      learning_rates={'main': scalar(0.01), 'backbone': scalar(0.001)},
      gradient_norm=scalar(4), weight_norm=scalar(90), loss_scale=scalar(1),
      checks={'mask_logits': np.bool_(True), 'loss "total"': np.bool_(True)},
      applied=np.bool_(True), stop=np.bool_(False))
  return output._replace(**changes)


def broken():
  """Returns a StepOutput of a step that was skipped."""
  return make(np.nan, checks={'mask_logits': np.bool_(False), 'loss "total"': np.bool_(False)},
              gradient_norm=np.float32(np.nan), applied=np.bool_(False))
