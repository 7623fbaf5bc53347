"""Custom data sets in COCO's instance format, read directly or built into records."""

from typing import Optional

from deeplab_tf import config as config_lib
from deeplab_tf.classes import DatasetInfo
from deeplab_tf.data import catalog, sources
from deeplab_tf.data.sources import _image_files, _instance_format, _labeled_files, coco_format


def classes(options: sources.BuildOptions) -> DatasetInfo:
  """Returns the classes of the instance JSON; see the package."""
  if options.split == 'test' and not options.annotation_file:
    # It has no JSON.
    return DatasetInfo('coco_instance_format', (), 1, 0, 256, masks_overlap=True)
  return catalog.from_instance_file(coco_format.annotation_file(options, 'instances'))


def files(options: sources.BuildOptions) -> list[_labeled_files.LabeledFile]:
  """Returns the images, also those without instances; see the package.

  If annotation_file and image_dir are not set, the usual paths below the root are tried:
  annotations/instances_SPLIT.json, and SPLIT/ or images/SPLIT/, also with 2017 after SPLIT.
  """
  image_dir = coco_format.image_folder(options)
  if options.split == 'test' and not options.annotation_file:
    return _labeled_files.unlabeled(_image_files.in_folder(image_dir))
  json_file = coco_format.annotation_file(options, 'instances')
  content = _instance_format.read_json(json_file)
  info = catalog.from_instance_categories(content, json_file)
  return _instance_format.files(json_file, image_dir, content, info, options)


# --- Without records --------------------------------------------------------------------------


def direct(options, info: DatasetInfo) -> Optional[sources.DirectSource]:
  """Returns the images that DatasetOptions.coco_instance_format names; None if it names no folder.

  Raises:
    ConfigError: The options are incomplete.
  """
  fields = options.coco_instance_format
  if not fields.image_dir:
    return None
  named = {name: config_lib.require_value(getattr(fields, name), f'coco_instance_format.{name}')
           for name in ('annotation_file', 'image_dir')}
  found = files(sources.BuildOptions(**named, max_missing=options.max_damaged_images))
  return _labeled_files.direct(found, info, options.decode_groundtruth_label)
