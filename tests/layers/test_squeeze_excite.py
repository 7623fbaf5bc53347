"""Squeeze-and-excite gates."""

import numpy as np
import tensorflow as tf

from deeplab_tf.layers.squeeze_excite import SqueezeExcite


def test_channels_are_multiplied_with_hard_sigmoids_of_their_means():
  layer = SqueezeExcite(5)
  x = np.random.default_rng(0).normal(2, 3, (2, 4, 3, 5)).astype(np.float32)
  layer.gate.bias.assign([-9.0, -1.0, 0.0, 1.0, 9.0])
  logits = x.mean((1, 2)) @ layer.gate.kernel.numpy()[0, 0] + [-9, -1, 0, 1, 9]
  gates = np.clip(logits + 3, 0, 6) / 6
  np.testing.assert_allclose(layer(tf.constant(x)), x * gates[:, None, None], rtol=1e-4, atol=1e-5)
