"""Backbones compute the same features as the encoders of DeepLab2's models."""

import functools

import parity_weights
import pytest
import shared
from google.protobuf import text_format

from deeplab_tf import backbones
from deeplab_tf.checkpoints.reference import load_reference_weights
from deeplab_tf.compat import keras
from deeplab_tf.layers.normalization import BatchNorm
from deeplab_tf.protos import config_pb2

pytestmark = pytest.mark.parity

# Recorded model -> name of its backbone.
ENCODERS = {
    'panoptic_deeplab_resnet50': 'resnet50',
    'panoptic_deeplab_resnet50_beta': 'resnet50_beta',
    'axial_deeplab_max_deeplab_s_backbone': 'max_deeplab_s_backbone',
    'wide_resnet41': 'wide_resnet41',
    'axial_swidernet_1_1_1': 'axial_swidernet',
}
# 136 million weights.
SLOW = ('axial_swidernet_1_1_1',)


class _Encoder(keras.Model):

  def __init__(self, backbone):
    super().__init__()
    self.backbone = backbone


@pytest.mark.parametrize('model', [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ENCODERS])
def test_encoder_equals_deeplab2(model):
  description, noise, recorded = parity_weights.load_model_case(model)
  text = shared.path('parity', 'deeplab2', 'configs', description['config']).read_text()
  options = text_format.Parse(text, config_pb2.ExperimentOptions()).model_options.backbone
  assert options.name == ENCODERS[model]
  encoder = _Encoder(backbones.build(options, functools.partial(BatchNorm, synchronized=True)))
  description['weights'] = [w for w in description['weights'] if w['key'].startswith('encoder/')]
  # Every weight of the encoder has a place, and every variable a weight.
  load_reference_weights(encoder, 'deeplab2', parity_weights.recipe_weights(description))

  features = encoder.backbone(parity_weights.images(description))
  recorded_names = {name.split('|')[1] for name in recorded if name.startswith('endpoint|')}
  assert {f'{kind}{level}' for kind in ('stage', 'res') for level in range(1, 6)} <= recorded_names
  for name in recorded_names:
    parity_weights.assert_recorded(features[name], recorded, noise, f'endpoint|{name}')
