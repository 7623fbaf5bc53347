"""Scores of predictions on disk, by task: the figures, and a table for the terminal."""

from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

from deeplab_tf.formats import coco_panoptic
from deeplab_tf.metrics import mean_iou, panoptic_quality
from deeplab_tf.reports.evaluation import evaluation_report, instance_report, semantic_report
from deeplab_tf.scoring import instance_files, left_out, panoptic_files, semantic_files


class ScoreOptions(NamedTuple):
  """Files, and what is measured; the flags of evaluation/evaluate.py.

  Attributes:
    ground_truth, predictions: JSONs, or folders of semantic PNGs.
    ground_truth_dir, predictions_dir: Folders of the PNGs of a panoptic JSON; None for the path of
      the JSON without its extension.
    boundary: Whether the smaller of mask IoU and boundary IoU is used.
    definition: Definition of panoptic quality, 'panopticapi' or 'deeplab2'.
    num_classes: Number of classes of semantic PNGs; None for panoptic files.
    ignore_label: Value of unlabeled pixels in semantic PNGs; None for 255.
    workers: Number of processes.
    per_class: Whether the table has a line per class.
    report: Folder of an HTML report; None for none.
    images: Folder of the images that the report shows, or None.
  """
  ground_truth: coco_panoptic.PathLike
  predictions: coco_panoptic.PathLike
  ground_truth_dir: Optional[coco_panoptic.PathLike] = None
  predictions_dir: Optional[coco_panoptic.PathLike] = None
  boundary: bool = False
  definition: str = 'panopticapi'
  num_classes: Optional[int] = None
  ignore_label: Optional[int] = None
  workers: int = 1
  per_class: bool = False
  report: Optional[str] = None
  images: Optional[str] = None

  @property
  def panoptic_files(self) -> tuple:
    """The panoptic JSONs and their folders, as the functions of `scoring` take them."""
    return (self.ground_truth, coco_panoptic.predictions_json(self.predictions),
            self.ground_truth_dir, self.predictions_dir)


class FileScores(NamedTuple):
  """Scores of predictions on disk.

  Attributes:
    figures: The scores, in [0, 1], and how many images were left out.
    text: A table of the scores in percent.
    warnings: One line for each thing that is odd about the files.
  """
  figures: Mapping[str, Any]
  text: str
  warnings: Sequence[str] = ()


def score(task: str, options: ScoreOptions, progress: Callable[[int], Any]) -> FileScores:
  """Scores predictions on disk.

  Args:
    task: 'panoptic', 'semantic' or 'instance'.
    options: The files, and what is measured.
    progress: Is called with the number of images that were scored since the last call.

  Raises:
    UserError: A file is missing, or its content is invalid.
  """
  return {'panoptic': _panoptic, 'semantic': _semantic, 'instance': _instance}[task](
      options, progress)


def _panoptic(options, progress):
  page = None
  if options.report:
    page, scored = evaluation_report.write(
        options.report, *options.panoptic_files, options.images, progress,
        num_workers=options.workers,
        dilation_ratio=panoptic_quality.DILATION_RATIO if options.boundary else None)
  else:
    scored = panoptic_files.panoptic_score(
        *options.panoptic_files, progress, options.workers,
        'boundary' if options.boundary else options.definition)
  result = scored.metric.result()
  table = panoptic_quality.format_result(result, scored.class_names if options.per_class else None)
  return _scores(result, table, scored, scored.warnings, _written(page))


def _semantic(options, progress):
  page = None
  folders = (options.ground_truth, options.predictions, options.num_classes)
  ignore_label = 255 if options.ignore_label is None else options.ignore_label
  if options.report:
    source = (semantic_report.from_panoptic(*options.panoptic_files)
              if options.num_classes is None
              else semantic_report.from_label_pngs(*folders, ignore_label))
    page, scored = semantic_report.write(options.report, source, options.images, progress,
                                         num_workers=options.workers)
  elif options.num_classes is None:
    scored = panoptic_files.semantic_score(*options.panoptic_files, progress, options.workers)
  else:
    scored = semantic_files.label_png_score(*folders, ignore_label=ignore_label,
                                            progress=progress, num_workers=options.workers)
  result = scored.metric.result()
  table = mean_iou.format_result(result, scored.class_names if options.per_class else None)
  return _scores(result, table, scored, scored.warnings, _written(page))


def _written(page):
  return [f'written to {page}'] if page else []


def _instance(options, progress):
  page = None
  iou_type = 'boundary' if options.boundary else 'segm'
  if options.report:
    page, scored = instance_report.write(
        options.report, options.ground_truth, options.predictions, iou_type, options.images,
        progress, num_workers=options.workers)
  else:
    scored = instance_files.instance_score(options.ground_truth, options.predictions, iou_type,
                                           progress, options.workers)
  return _scores(scored.figures, instance_files.format_result(scored, options.per_class), scored,
                 last_lines=_written(page))


def _scores(result, table, scored, warnings=(), last_lines=()):
  lines = [table, *(['', *scored.omitted.lines] if scored.omitted.lines else []), *last_lines]
  return FileScores(left_out.with_figures(result, scored.omitted), '\n'.join(lines),
                    warnings)
