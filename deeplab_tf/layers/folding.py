"""Folds batch norms, frozen ones too, into the layers before them, as both are linear."""

from deeplab_tf.compat import keras


def fold_norms(model: keras.layers.Layer) -> None:
  """Folds the batch norms of a model, which afterwards is for inference only.

  Outputs stay the same within rounding; the factors are computed in float64. A layer whose norm
  follows an operation that is linear in its weights has a method `fold_norms`. Layer norms and
  group norms are kept, as they depend on their input. Also kept are the batch norms of switchable
  atrous convolutions, whose last term depends on the tensor that would be scaled; of the logits and
  outputs of dual-path attention and of clustering, whose values are used twice; and of the mask
  logits, whose scale must not change the pixel features.

  Folding removes variables and adds others, so a folded model cannot load a checkpoint and must not
  be saved as one. It has no trainable variables. Folding it again changes nothing.

  Args:
    model: Model with its final weights; it is changed in place.
  """
  for layer in (model, *model.submodules):
    if hasattr(layer, 'fold_norms'):
      layer.fold_norms()
  model.trainable = False
