"""Which Keras is used with which TensorFlow."""

import sys
import types

import pytest
import tensorflow as tf

from deeplab_tf import compat
from deeplab_tf.user_errors import HostError


def test_before_2_16_keras_is_tensorflows():
  assert compat.find_keras('2.9.0') is tf.keras
  assert compat.find_keras('2.15.1') is tf.keras


def test_from_2_16_on_keras_2_is_a_package_of_its_own(monkeypatch):
  package = types.ModuleType('tf_keras')
  monkeypatch.setitem(sys.modules, 'tf_keras', package)
  assert compat.find_keras('2.16.0-rc0') is package
  assert compat.find_keras('2.20.0') is package
  assert compat.find_keras('3.0.1') is package


def test_what_is_missing_is_said_in_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tf_keras', None)
  with pytest.raises(HostError, match='2.20.0 has Keras 3 .*install .*tf_keras~=2.20.0'):
    compat.find_keras('2.20.0')
