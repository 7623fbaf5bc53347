"""Image classification, to pre-train a backbone (MaX-DeepLab, section A.6).

The network is a backbone without memory, average pooling and a linear layer. The backbone's
variables have the same paths as in the segmentation models, which load them by
`model_options.initial_checkpoint`.
"""

import tensorflow as tf

from deeplab_tf import architecture, backbones, models
from deeplab_tf.architecture import Architecture, ParameterGroup, TargetForm
from deeplab_tf.backbones.features import Backbone
from deeplab_tf.classes import ImageClasses
from deeplab_tf.compat import keras
from deeplab_tf.layers.dropout import dropout
from deeplab_tf.losses.classification import ClassificationCriterion
from deeplab_tf.models._keras_model import KerasModel
from deeplab_tf.structures import ClassPrediction
from deeplab_tf.tasks import Task

# Number of classes in a prediction.
_TOP = 5


class Classifier(KerasModel):
  """A backbone, the mean of its last feature, and one linear layer.

  Attributes:
    dataset_info: The classes.
    backbone: Network from images to features.
    classifier: The linear layer.
  """

  def __init__(self, dataset_info: ImageClasses, backbone: Backbone, dropout_rate: float = 0.0):
    """Initializes the model.

    Args:
      dataset_info: The classes.
      backbone: Network to pre-train; its last feature is pooled.
      dropout_rate: Share of the pooled features that is dropped in training.
    """
    # === Layers ===
    super().__init__(dataset_info)
    self.backbone = backbone
    # float32 in every precision: 16 bits do not tell 1000 probabilities apart.
    self.classifier = keras.layers.Dense(
        dataset_info.num_classes, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype='float32')
    self._pooled = backbone.features[-1].name
    self.classifier.build([None, backbone.features[-1].channels])
    self._dropout_rate = dropout_rate

  # === Forward pass ===

  def call(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
    """Classifies images.

    Args:
      images: [batch, height, width, 3], normalized by the config's `image_normalization`,
        by default to [-1, 1].
      training: Whether batch norms use the batch's statistics, and features and branches are
        dropped.

    Returns:
      float32 `class_logits` [batch, classes].
    """
    features = self.backbone(images, training=training)
    pooled = tf.reduce_mean(tf.cast(features[self._pooled], tf.float32), [1, 2])
    pooled = dropout(pooled, self._dropout_rate, training)
    return {'class_logits': self.classifier(pooled)}


# === From a config ===


def build(config, dataset_info: ImageClasses, for_inference: bool = False) -> Classifier:
  """Builds the network that a config describes.

  Args:
    config: ExperimentOptions.
    dataset_info: The classes.
    for_inference: Not used: no part of the network is for training only.

  Raises:
    ValueError: The backbone is unknown; the message lists the known ones.
  """
  options = config.model_options
  norm = models.norm_factory(config.trainer_options.solver_options)
  backbone = backbones.build(options.backbone, norm)
  model = Classifier(dataset_info, backbone, options.classification.dropout_rate)
  model.describe_by(config, for_inference)
  return model


def parameter_groups(model: Classifier, solver) -> list[ParameterGroup]:
  """Returns the groups of the backbone and of the other variables."""
  return architecture.parameter_groups(
      model.trainable_variables, model.backbone.trainable_variables,
      solver.backbone_learning_rate_multiplier)


def inference_variables(model: Classifier) -> list[tf.Variable]:
  """Returns the trainable variables that inference uses: all."""
  return model.trainable_variables


def last_layers(model: Classifier) -> dict[str, list[keras.layers.Layer]]:
  """Returns the layers whose weights belong to the classes of one data set."""
  return {'semantic': [model.classifier]}


def build_criterion(config, dataset_info) -> ClassificationCriterion:
  """Returns the loss of the network's outputs; see losses.classification."""
  del dataset_info
  options = config.trainer_options.loss_options.classification_loss
  return ClassificationCriterion(options.weight, options.label_smoothing)


def build_postprocessor(config, dataset_info, static_shapes: bool = False):
  """Returns the function from outputs and the size of the images to ClassPrediction."""
  del config, static_shapes
  count = min(_TOP, dataset_info.num_classes)

  def most_probable(outputs, output_size):
    del output_size  # Classes are those of whole images.
    top = tf.math.top_k(tf.nn.softmax(outputs['class_logits']), count)
    return ClassPrediction(top.indices, top.values)

  return most_probable


ARCHITECTURE = Architecture(
    name='classification', build=build, build_criterion=build_criterion,
    postprocessors={Task.CLASSIFICATION: build_postprocessor}, parameter_groups=parameter_groups,
    inference_variables=inference_variables, last_layers=last_layers,
    target_form=TargetForm.CLASS)
