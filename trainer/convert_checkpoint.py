"""Converts a checkpoint of another library to one of this library.

  python trainer/convert_checkpoint.py --source=deeplab2 --input=downloaded/ckpt-100000 \\
      --config_file=configs/coco/max_deeplab/max_deeplab_s.textproto --output=converted/ckpt-0
  python trainer/convert_checkpoint.py --source=mask2former --input=model_final_94dc52.pkl \\
      --config_file=configs/coco/mask2former/panoptic_r50.textproto --output=converted/ckpt-0
  python trainer/convert_checkpoint.py --source=huggingface \\
      --input=mask2former-swin-tiny-coco-panoptic --output=converted/ckpt-0

Use the result as model_options.initial_checkpoint, or in trainer/export.py and
evaluation/predict.py. From a model of Hugging Face, a folder with model.safetensors and
config.json, the config is written as well: config.textproto beside the output.

To convert a backbone that was trained on ImageNet (a DeepLab2 or Model Garden encoder), use a
classification config, e.g. configs/imagenet/max_deeplab_s_backbone.textproto, and set the result as
initial_checkpoint of another config. For --source=mask2former it may be torchvision's ResNet or
Swin's own file, and the config that of a Mask2Former too. PyTorch files are read without PyTorch;
--source=axial_deeplab is for configs/imagenet/axial26_s.textproto.
"""

import os
import sys
from typing import Optional, Sequence

from deeplab_tf import arguments, cli
from deeplab_tf.formats import atomic_file
from deeplab_tf.user_errors import UsageError

SOURCES = ('deeplab2', 'mask2former', 'huggingface', 'axial_deeplab')


def main(argv: Optional[Sequence[str]] = None) -> int:
  """Runs the program and returns its exit code."""
  return cli.run(_run, argv)


def _run(argv: Optional[Sequence[str]] = None) -> None:
  args = _parser().parse_args(argv)
  folder = args.output if os.path.isdir(args.output) else os.path.dirname(
      os.path.abspath(args.output))
  config, made = _config(args)
  reason = atomic_file.why_not_writable(folder)
  if reason:
    raise UsageError(f'--output={args.output} cannot be written: {reason}; give another prefix')
  if made:
    made.check_writable(folder)
  from deeplab_tf import models
  from deeplab_tf.checkpoints import convert
  model = models.build_model(config)
  converted = convert.convert(model, args.source, args.input, args.output)
  print(f'converted {args.input} to {converted.prefix}', *converted.account.lines(), sep='\n')
  if made:
    print(f'wrote {made.write(folder)}', *made.lines, sep='\n  ')


def _config(args):
  """Returns the config, and None or, if it is made of config.json, the huggingface_config.Made."""
  if args.config_file:
    from deeplab_tf import config as config_lib
    return config_lib.load_config(args.config_file, args.override), None
  if args.source != 'huggingface':
    raise UsageError(f'--source={args.source} needs --config_file, the config of the model; only '
                     '--source=huggingface does without')
  from deeplab_tf.checkpoints import huggingface_config
  made = huggingface_config.make(args.input, args.override)
  return made.config, made


def _parser() -> arguments.Parser:
  parser = arguments.Parser('convert_checkpoint.py', __doc__)
  parser.add_config(required=False)
  parser.add_argument('--source', required=True, choices=SOURCES,
                      help='the library that wrote the checkpoint')
  parser.add_argument('--input', required=True, metavar='P', type=arguments.path,
                      help='the checkpoint: a prefix or a folder (its latest one) of TensorFlow, a '
                      '.pkl or PyTorch file, or the folder of a model of Hugging Face')
  parser.add_argument('--output', required=True, metavar='C', type=arguments.path,
                      help='the prefix to write; if it is an existing folder, ckpt-0 in it')
  return parser


if __name__ == '__main__':
  sys.exit(main())
