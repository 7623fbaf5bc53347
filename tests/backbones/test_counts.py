"""Backbones have as many weights as DeepLab2's in every published config."""

import functools
import json

import pytest
import shared
import tensorflow as tf
from google.protobuf import text_format

from deeplab_tf import backbones
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.protos import config_pb2

pytestmark = pytest.mark.parity

# The heaviest networks, of up to 570 million weights, are behind the marker.
CASES = {
    'panoptic_resnet50_os32@641': False,
    'panoptic_resnet50_beta_os32@641': False,
    'panoptic_wide_resnet41_os16_cityscapes@1025x2049': False,
    'axial_max_deeplab_s_backbone_cityscapes@1025x2049': False,
    'axial_max_deeplab_l_backbone_cityscapes@1025x2049': False,
    'axial_swidernet_1_1_1_cityscapes@1025x2049': False,
    'axial_swidernet_1_1_3_cityscapes@1025x2049': True,
    'axial_swidernet_1_1_4.5_cityscapes@1025x2049': True,
    'swidernet_sac_1_1_1_cityscapes@1025x2049': False,
}


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow if slow else ()) for name, slow in CASES.items()])
def test_encoder_has_the_weights_of_deeplab2(name):
  counts = json.loads(shared.path('reference', 'deeplab2_counts.json').read_text())
  recorded = counts['models'][name]
  text = shared.path('parity', 'deeplab2', 'configs', recorded['config']).read_text()
  options = text_format.Parse(text, config_pb2.ExperimentOptions()).model_options.backbone
  with tf.Graph().as_default():  # Variables without values.
    backbone = backbones.build(options, functools.partial(BatchNorm, synchronized=True))
  weights = sum(v.shape.num_elements() for v in backbone.trainable_variables)
  assert weights == recorded['parts']['encoder']
