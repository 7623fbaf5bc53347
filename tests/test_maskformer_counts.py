"""Configs of MaskFormer have the parameters of the released networks and the paper's FLOPs."""

import math
import re

import maskformer_configs
import pytest
import released_configs

import deeplab_tf
from deeplab_tf import profiling

# Millions of parameters, from the shapes in the released code: backbones with 150 classes, and with
# 133 classes and an encoder of six layers.
_FPN = {'r50': 41.25, 'r101': 60.19, 'r101c': 60.31, 'swin_tiny': 41.76, 'swin_small': 63.07,
        'swin_base': 101.83, 'swin_large': 211.58}
_ENCODER = {'r50': 45.01, 'r101': 63.95}
# 1e9 multiply-adds in the papers of Mask2Former and CMT-DeepLab, of COCO's models.
_FLOPS = {'r50': 181, 'r101': 248, 'swin_large': 792}
ROWS = maskformer_configs.released()
QUICK = ('coco/panoptic_r50', 'ade20k/semantic_r50', 'ade20k/semantic_swin_tiny')


@pytest.mark.parametrize('row', [
    pytest.param(row, id=row.config, marks=() if row.config in QUICK else pytest.mark.slow)
    for row in ROWS])
def test_parameters_and_flops_are_those_of_the_released_network(row):
  config, size = deeplab_tf.load_config(row.path), (800, 1136)
  total = profiling.summarize(config, size).total
  expected = (_ENCODER if int(row.encoder_layers) else _FPN)[row.backbone]
  # A class has a column of 256 weights and a bias.
  expected += 257e-6 * (int(row.classes) - (133 if int(row.encoder_layers) else 150))
  assert total.trainable_parameters == total.inference_parameters
  assert total.trainable_parameters / 1e6 == pytest.approx(expected, abs=0.01)
  header = re.search(r'# Counts: +([\d.]+) M parameters(?:, ([\d.]+) G)?', row.path.read_text())
  assert float(header[1]) == pytest.approx(total.trainable_parameters / 1e6, abs=0.051)
  assert (row.dataset == 'coco') == (header[2] is not None)
  if row.dataset == 'coco':
    assert float(header[2]) == pytest.approx(total.madds / 1e9, abs=0.051)
  if row.dataset == 'coco' and row.backbone in _FLOPS:
    found = total.madds + _more_in_the_released_code(config, size)
    assert found / 1e9 == pytest.approx(_FLOPS[row.backbone], rel=0.012)


def _more_in_the_released_code(config, size):
  """Returns the multiply-adds that the released code takes more, for the same results.

  At inference it computes the masks of all six layers. In Swin it projects the padding of the
  windows.
  """
  options, backbone = config.model_options.mask2former, config.model_options.backbone.name
  pixels = math.prod(-(-side // 4) for side in size)
  masks = (options.num_layers - 1) * options.num_queries * options.mask_channels * pixels
  return masks + released_configs.madds_of_window_padding(backbone, size)
