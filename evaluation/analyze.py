"""Analyzes the queries of a trained mask model, as in the papers of the models, on one page.

  python evaluation/analyze.py --config_file=runs/a/config.textproto --checkpoint=runs/a \\
    --output_dir=analysis
"""

import os
import sys
from typing import Optional, Sequence

from deeplab_tf import arguments, cli
from deeplab_tf.user_errors import MissingFileError, UsageError

_NOTES = """\
output:
  analysis.html        all figures with explanations, self-contained
  query_classes.png    which query predicts which class, how often   (MaX-DeepLab: figure A.3)
  average_masks.png    average mask of each query                    (A.4)
  attention_N.png      attention of four masks, per head             (A.6)
  memory_share.png     fraction of the attention to the memory, per head
  layer_masks_N.png    four masks after each decoder layer
  clustering_N.png     clusters after each layer, and reference masks (CMT-DeepLab)
  proposal_recall.png  AR@100 of the masks of some decoder layers    (Mask2Former: figure 3)
  proposals.png        their best masks for some things              (Mask2Former: figure 3)
  features.png         pixel features as colors                      (5, A.5)
  training_curves.png  PQ, class confidence, dice, pixel accuracies  (4)
  analysis.json, average_masks.npz, attention.npz, features.npz       the numbers
Analyses that do not apply to the model or the run are left out, and the page says so.
"""
_PICTURES = 3


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  _check(args)
  from deeplab_tf import config as config_lib
  config = config_lib.load_config(args.config_file, args.override)
  from deeplab_tf.checkpoints.restore import find_checkpoint
  from deeplab_tf.reports.queries import query_report
  from deeplab_tf.reports.queries.analyzed_network import AnalyzedNetwork
  from deeplab_tf.reports.queries.query_survey import Picture
  checkpoint = find_checkpoint(args.checkpoint)
  arguments.make_output_dir(args.output_dir)
  network = AnalyzedNetwork(config, checkpoint)
  _check_queries(args.queries, network.num_queries)
  photos = _read_images(args.images)
  found = _survey(network, config, args, 0 if photos else _PICTURES)
  pictures = found.pictures + [Picture(name, network(pixels)) for name, pixels in photos]
  query_report.write(args.output_dir, found._replace(pictures=pictures), network.dataset_info,
                     query_report.Experiment(config.experiment_name, args.config_file, checkpoint,
                                             _model_dir(args, checkpoint), args.queries))
  firing = int((found.statistics.firings > 0).sum())
  print(f'{found.statistics.images} images, {firing} of {network.num_queries} queries fire')
  if found.memory_share is not None:
    shares = ' '.join(f'{100 * share:.0f}%' for share in found.memory_share)
    print(f'attention that goes to the memory, heads 1 to {len(found.memory_share)}: {shares}')
  if found.proposals.examples:
    recalls = ', '.join(f'{layer}: {100 * result["AR100"]:.1f}'
                        for layer, result in found.proposals.results().items())
    print(f'AR@100 of the masks after decoder layers (0 is before the first) {recalls}')
  print(f'page: {os.path.join(args.output_dir, "analysis.html")}')


# --- Flags ------------------------------------------------------------------------------------


def _parser() -> arguments.Parser:
  parser = arguments.Parser('analyze.py', __doc__, _NOTES)
  parser.add_config()
  parser.add_checkpoint()
  parser.add_output_dir()
  parser.add_argument('--model_dir', metavar='D',
                      help='folder with the TensorBoard logs for the training curves (default: the '
                      'folder of the checkpoint)')
  parser.add_argument('--images', nargs='+', default=[], metavar='IMAGE',
                      help='image files whose attention and features are shown (default: '
                      f'{_PICTURES} images of the dataset)')
  parser.add_argument('--num_images', type=arguments.positive, metavar='N',
                      help='analyze the first N images of the evaluation dataset (default: all)')
  parser.add_argument('--queries', nargs='+', type=int, metavar='QUERY',
                      help='indices, from 0, of at most four queries whose attention is shown '
                      '(default: those of the largest things, then stuff, in each image)')
  return parser


def _check(args) -> None:
  arguments.check_output_dir(args.output_dir)
  if args.model_dir is not None and not os.path.isdir(args.model_dir):
    raise UsageError(f'--model_dir={args.model_dir}: no such folder; give one that training '
                     'wrote to')
  if args.queries is not None:
    args.queries = list(dict.fromkeys(args.queries))
  if args.queries is not None and len(args.queries) > 4:
    raise UsageError(f'--queries: {len(args.queries)} are given; at most four can be '
                     'distinguished in one image')


def _check_queries(queries: Optional[Sequence[int]], num_queries: int) -> None:
  for query in queries or ():
    if not 0 <= query < num_queries:
      raise UsageError(f'--queries: the model has no query {query}; they are numbered from 0 '
                       f'to {num_queries - 1}')


def _model_dir(args, checkpoint: str) -> Optional[str]:
  """Returns the folder with event files, or None."""
  from deeplab_tf.reports.queries import event_curves
  folder = args.model_dir or os.path.dirname(checkpoint) or '.'
  return folder if event_curves.has_events(folder) else None


# --- Images -----------------------------------------------------------------------------------


def _read_images(paths: Sequence[str]) -> list[tuple]:
  """Returns names and pixels of image files."""
  from deeplab_tf.formats import rgb_images
  for path in paths:
    if not os.path.isfile(path):
      raise MissingFileError(f'--images: {path}: no such file')
  return [(os.path.splitext(os.path.basename(path))[0], rgb_images.read(path)) for path in paths]


def _survey(network, config, args, num_pictures: int):
  """Runs the network on the evaluation dataset."""
  import tqdm

  from deeplab_tf.data import pipeline
  from deeplab_tf.reports.queries.query_survey import survey
  options = config.eval_dataset_options
  options.batch_size = 1
  samples = pipeline.eval_dataset(config, network.dataset_info)
  total = pipeline.count_examples(options)
  if args.num_images is not None:
    samples = samples.take(args.num_images)
    total = args.num_images if total is None else min(total, args.num_images)
  return survey(network, samples, num_pictures,
                lambda loop: tqdm.tqdm(loop, total=total, unit=' images', disable=None))


if __name__ == '__main__':
  sys.exit(main())
