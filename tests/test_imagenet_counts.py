"""Configs for ImageNet have the parameters and multiply-adds of the papers of their backbones."""

import pathlib
import re

import pytest

import deeplab_tf
from deeplab_tf import profiling

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / 'configs' / 'imagenet'

# Millions of parameters and billions of multiply-adds: of ResNets as torchvision states them, of
# Swins as table 1 of the paper does, in whole millions.
PUBLISHED = {
    'torchvision_resnet50': (25.6, 4.1),
    'torchvision_resnet101': (44.5, 7.8),
    'swin_tiny': (29, 4.5),
    'swin_small': (50, 8.7),
    'swin_base': (88, 47.0),
    'swin_large': (197, 103.9),
}
QUICK = ('torchvision_resnet50', 'swin_tiny')


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PUBLISHED])
def test_counts_are_published_and_in_the_header(name):
  path = CONFIGS / f'{name}.textproto'
  total = profiling.summarize(deeplab_tf.load_config(path)).total
  parameters, madds = total.inference_parameters / 1e6, total.madds / 1e9
  published = PUBLISHED[name]
  assert parameters == pytest.approx(published[0], rel=0.025)
  assert madds == pytest.approx(published[1], rel=0.015)
  header = re.search(r'# Counts: +([\d.]+) M parameters, ([\d.]+) G', path.read_text())
  assert float(header[1]) == pytest.approx(parameters, abs=0.051)
  assert float(header[2]) == pytest.approx(madds, abs=0.0006)
