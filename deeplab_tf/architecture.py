"""Description of an architecture; each module of `deeplab_tf.models` provides one."""

import dataclasses
import enum
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

import tensorflow as tf

from deeplab_tf import tasks
from deeplab_tf.classes import AnyInfo
from deeplab_tf.tasks import Task
from deeplab_tf.user_errors import ConfigError


class TargetForm(str, enum.Enum):
  """The form of the targets that a criterion takes; see deeplab_tf.structures.

  Attributes:
    MASK: MaskTargets.
    CENTER: CenterTargets.
    CLASS: ClassTargets.
  """
  MASK = 'mask'
  CENTER = 'center'
  CLASS = 'class'


class ParameterGroup(NamedTuple):
  """Trainable variables that an optimizer treats alike.

  Attributes:
    name: 'main', 'backbone' or another name. Groups of the same name share an optimizer and
      its learning rate, so their `rate` must be the same.
    variables: The variables.
    rate: Factor on the base learning rate.
    decays: Whether weight decay applies to the variables.
  """
  name: str
  variables: Sequence[tf.Variable]
  rate: float
  decays: bool


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Description of one kind of network: ARCHITECTURE of a module of `deeplab_tf.models`.

  The functions take `config`, ExperimentOptions, and `dataset_info`, the classes: DatasetInfo, or
  ImageClasses for classification.

  Attributes:
    name: Name of the field of `model_options.meta_architecture` and of the module.
    build: (config, dataset_info, for_inference=False) -> the network, a models._keras_model
      KerasModel, whose call returns a dictionary of raw outputs. `for_inference` leaves out the
      parts that only training uses.
    build_criterion: (config, dataset_info) -> the training loss of outputs and targets.
    postprocessors: For each task that the architecture does, (config, dataset_info,
      static_shapes) -> callable(outputs, output_size) -> the task's prediction.
    parameter_groups: (model, SolverOptions) -> ParameterGroups that together hold each trainable
      variable once.
    inference_variables: (model) -> the trainable variables that inference uses.
    last_layers: (model) -> the final layers of the heads by branch, 'semantic' and, where there is
      one, 'instance'. The options restore_..._last_layer_from_initial_checkpoint refer to them.
    target_form: The form of the targets.
    masks_compete: For masks, whether each pixel has a softmax over the queries; else each mask is
      a sigmoid of its own.
  """
  name: str
  build: Callable[..., Any]
  build_criterion: Callable[..., Any]
  postprocessors: Mapping[Task, Callable[..., Callable]]
  parameter_groups: Callable[..., Sequence[ParameterGroup]]
  inference_variables: Callable[..., Sequence[tf.Variable]]
  last_layers: Callable[..., Mapping[str, Sequence[Any]]]
  target_form: TargetForm
  masks_compete: bool = False

  @property
  def has_queries(self) -> bool:
    """Whether the raw outputs have `class_logits` and `mask_logits` of queries."""
    return self.target_form is TargetForm.MASK

  def check_task(self, config, task: Optional[Task] = None) -> None:
    """Checks that the architecture does a task.

    Args:
      config: ExperimentOptions.
      task: The task; None for that of the config.

    Raises:
      ConfigError: The architecture does not do the task.
    """
    task = task or tasks.of(config)
    if task not in self.postprocessors:
      does = ' or '.join(known.name for known in self.postprocessors)
      raise ConfigError(f'task is {task.name}: model {self.name} does {does}')

  def build_postprocessor(self, config, dataset_info: AnyInfo, static_shapes: bool = False,
                          task: Optional[Task] = None) -> Callable:
    """Returns the post-processing of a task.

    Args:
      config: ExperimentOptions.
      dataset_info: The classes of the network.
      static_shapes: Whether no shape may depend on values, as XLA and TPUs require.
      task: The task, which may differ from that of the training; None for that of the config.

    Returns:
      callable(outputs, output_size) -> PanopticPrediction, or another prediction of
      deeplab_tf.structures for another task.
    """
    self.check_task(config, task)
    return self.postprocessors[task or tasks.of(config)](config, dataset_info, static_shapes)


def is_kernel(variable: tf.Variable) -> bool:
  """Returns whether DeepLab2's weight decay applies: the name ends in kernel or weight."""
  return variable.name.split(':')[0].endswith(('kernel', 'weight'))


def parameter_groups(variables: Sequence[tf.Variable],
                     backbone_variables: Sequence[tf.Variable] = (),
                     backbone_rate: float = 1.0) -> list[ParameterGroup]:
  """Returns the groups of DeepLab2's models: kernels decay, and the backbone may have its own rate.

  Args:
    variables: All trainable variables.
    backbone_variables: Trainable variables that are pre-trained.
    backbone_rate: Factor on the learning rate of `backbone_variables`, which have groups of their
      own only if it is not 1.
  """
  own = {id(v) for v in backbone_variables} if backbone_rate != 1.0 else set()
  groups = []
  for name, rate, is_backbone in (('main', 1.0, False), ('backbone', backbone_rate, True)):
    members = [v for v in variables if (id(v) in own) == is_backbone]
    for decays in (True, False):
      found = [v for v in members if is_kernel(v) == decays]
      if found:
        groups.append(ParameterGroup(name, found, rate, decays))
  return groups
