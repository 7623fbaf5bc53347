"""Folds batch norms, frozen ones too, into the layers before them: both are one linear map."""

from deeplab_tf.compat import keras


def fold_norms(model: keras.layers.Layer) -> None:
  """Folds the batch norms of a model, which from then on is for inference alone.

  Outputs stay the same within rounding; the factors are computed in float64. A layer whose norm
  follows something that is linear in its weights has a method `fold_norms`. Layer norms and group
  norms stay, as they depend on their input. So do the batch norms of switchable atrous
  convolutions, whose last term reads what would be scaled; of the logits and outputs of dual-path
  attention, whose values have two readers; and of the mask logits, whose factor must not reach the
  pixel features.

  Variables go and others come, so a folded model takes no checkpoint and must not be written as
  one. It has no trainable variables. Folding it again changes nothing.

  Args:
    model: Has its final weights. It is changed.
  """
  for layer in (model, *model.submodules):
    if hasattr(layer, 'fold_norms'):
      layer.fold_norms()
  model.trainable = False
