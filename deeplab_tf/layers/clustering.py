"""The Clustering Mask Transformer layer (CMT-DeepLab, section 3.3): pixels belong to clusters.

It is a dual-path layer (layers.dual_path_attention) whose memory vectors are cluster centers C, for
pixel features F. Two switches change it:

  clustering update       Z = softmax_N(S + K~ Q~^T)                              equation 6
                          C^ = C + softmax_HW(Q K^T) V + Z^T V                    equation 7
                          F^ = F + Z V^c                                          equation 8

  location-sensitive      e^ = e + MLP(C), r^c = sigmoid(e^)                      equations 9, 10
  clustering              C^ = Conv(Concat(C, r^c)), F^ = Conv(Concat(F, r^p))    equations 11, 12

S are the affinity logits of the layer before, r^c the M points of a center's reference mask, and
r^p the coordinates of the pixels. What the paper leaves open, and why this reading was chosen, is
in docs/cmt_deeplab.md; the lines below name the readings.
"""

from typing import NamedTuple, Optional

import tensorflow as tf

from deeplab_tf.compat import keras
from deeplab_tf.layers.attention_records import AssignmentRecord, report
from deeplab_tf.layers.convolution import Convolution, Projection, merge_heads
from deeplab_tf.layers.dual_path_attention import DualPathLayer, DualPathOptions
from deeplab_tf.layers.normalization import NormFactory, scaled
from deeplab_tf.layers.product_moments import product_moments
from deeplab_tf.layers.resizing import resize_bilinear
from deeplab_tf.layers.shapes import Dimension, dimensions

# Hidden layers of the MLP of equation 9, as in DETR's.
_HIDDEN_LAYERS = 2
# Size of the kernel of equation 12.
_COORDINATE_KERNEL = 3
# Initial scale of the affinity logits: that of MaX-DeepLab's mask logits, to which they are added.
_AFFINITY_SCALE = 0.1


class ClusteringOptions(NamedTuple):
  """Switches of the layer.

  Attributes:
    updates_clusters: Whether there is the clustering update (equations 5 to 8). It takes the place
      of P2M, since both let pixels read the centers, and has its projections: the paper counts no
      parameters for the update.
    num_points: Number of points of a reference mask, the paper's M; 0: no reference masks.
    coordinate_convolutions: Whether reference masks and coordinates of pixels enter the layer
      (equations 11 and 12); needs reference masks.
  """
  updates_clusters: bool = True
  num_points: int = 8
  coordinate_convolutions: bool = True


class Clusters(NamedTuple):
  """The cluster centers on their way through the layers.

  Attributes:
    centers: [batch, clusters, channels].
    embedding: The reference masks before their sigmoid (e of equation 9), float32 [batch,
      clusters, 2 * num_points]; None without reference masks.
    affinities: For each layer so far, float32 [batch, h, w, clusters]: the logits of Z, which is
      their softmax over the clusters.
    references: For each layer so far, float32 [batch, clusters, num_points, 2]: the points of the
      reference masks, (y, x) in [0, 1].
  """
  centers: tf.Tensor
  embedding: Optional[tf.Tensor] = None
  affinities: tuple[tf.Tensor, ...] = ()
  references: tuple[tf.Tensor, ...] = ()


class ClusterAssignment(keras.layers.Layer):
  """Assigns pixels to clusters, each pixel by a softmax over the clusters, and applies the result.

  Attributes:
    norm_affinity: Batch norm of the new part of the logits.
    norm_pixels, norm_centers: Batch norms of what pixels and centers read.
  """

  def __init__(self, value_channels: int, norm: NormFactory):
    """Initializes the layer.

    Args:
      value_channels: Channels of the values of pixels and of centers.
      norm: Factory of the batch norms.
    """
    super().__init__()
    # Reading: the logits have a batch norm like all logits of MaX-DeepLab, with one scale, since
    # each softmax is over all clusters.
    self.norm_affinity = norm(1, gamma_initializer=keras.initializers.Constant(_AFFINITY_SCALE))
    self.norm_pixels = norm(value_channels)
    # Reading: the two terms of equation 7 have batch norms of their own, since the weights of one
    # sum to 1 and those of the other to the size of the cluster.
    self.norm_centers = norm(value_channels)

  def call(self, key: tf.Tensor, query: tf.Tensor, earlier: Optional[tf.Tensor],
           training: bool = False) -> tf.Tensor:
    """Returns the logits of equation 6, float32 [batch, pixels, clusters].

    Args:
      key: [batch, pixels, channels] of the pixels (K~).
      query: [batch, clusters, channels] of the centers (Q~).
      earlier: float32 [batch, pixels, clusters], the logits of the layer before (S); None in the
        first.
      training: Whether batch norms use the batch's statistics.
    """
    mean = variance = None
    if training and not self.norm_affinity.frozen:
      mean, variance = product_moments(query[:, tf.newaxis], key[:, tf.newaxis])
    scale, offset = self.norm_affinity.affine(mean, variance, training)
    # An offset of all logits changes no softmax, but needs a gradient.
    query = scaled(query, scale + 0.0 * offset)
    logits = tf.cast(tf.matmul(key, query, transpose_b=True), tf.float32)
    return logits if earlier is None else logits + earlier

  def gather(self, assignment: tf.Tensor, values: tf.Tensor, training: bool) -> tf.Tensor:
    """Returns what centers read of pixels, Z^T V, float32 [batch, clusters, channels].

    Args:
      assignment: float32 [batch, pixels, clusters].
      values: [batch, pixels, channels].
      training: Whether batch norms use the batch's statistics.
    """
    # Sums over many pixels are in float32 also under mixed precision.
    sums = tf.matmul(assignment, tf.cast(values, tf.float32), transpose_a=True)
    return self.norm_centers(sums, training=training)

  def scatter(self, assignment: tf.Tensor, values: tf.Tensor, training: bool) -> tf.Tensor:
    """Returns what pixels read of centers, Z V, [batch, pixels, channels].

    Args:
      assignment: float32 [batch, pixels, clusters].
      values: [batch, clusters, channels].
      training: Whether batch norms use the batch's statistics.
    """
    if not training:
      # The weights sum to 1, so the norm can be applied to the fewer values.
      values = self.norm_pixels(values)
    read = tf.matmul(tf.cast(assignment, values.dtype), values)
    return self.norm_pixels(read, training=True) if training else read


class ClusteringLayer(DualPathLayer):
  """One exchange between pixels and cluster centers."""

  def __init__(self, pixel_channels: int, center_channels: int, options: DualPathOptions,
               clustering: ClusteringOptions, norm: NormFactory, keep_prob: float = 1.0):
    """Initializes the layer.

    Args:
      pixel_channels: Channels of the pixel path.
      center_channels: Channels of the centers.
      options: Sizes and switches of the dual-path layer.
      clustering: Switches of this layer.
      norm: Factory of the batch norms.
      keep_prob: Probability that a branch is kept in training (drop path), in (0, 1].

    Raises:
      ValueError: The channels are not divisible by the number of heads.
    """
    assignment = None
    if clustering.updates_clusters:
      assignment = ClusterAssignment(options.value_channels, norm)
    super().__init__(pixel_channels, center_channels, options, norm, keep_prob, assignment)
    self.clustering = clustering
    middle, activation = options.bottleneck_channels, options.activation
    if clustering.num_points:
      self.reference_mlp = [Projection(center_channels, center_channels, norm, activation)
                            for _ in range(_HIDDEN_LAYERS)]
      self.reference_offset = Projection(
          center_channels, 2 * clustering.num_points,
          kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.01))
    if clustering.num_points and clustering.coordinate_convolutions:
      # At the width of the bottleneck: with the 2048 channels of stage 5, equation 12 alone would
      # take more parameters than the paper counts for all of location-sensitive clustering.
      self.center_convolution = Projection(middle + 2 * clustering.num_points, middle, norm,
                                           activation)
      self.pixel_convolution = Convolution(middle + 2, middle, _COORDINATE_KERNEL, norm=norm,
                                           activation=activation)

  def call(self, pixels: tf.Tensor, clusters: Clusters,
           training: bool = False) -> tuple[tf.Tensor, Clusters]:
    """Assigns pixels to clusters and updates both.

    Args:
      pixels: [batch, height, width, pixel_channels], before the activation.
      clusters: The clusters.
      training: Whether batch norms use the batch's statistics and branches are dropped.

    Returns:
      The updated pixels, before the activation, and clusters.
    """
    size = dimensions(pixels)[1:3]
    narrow_pixels, narrow_centers = self.bottlenecks(pixels, clusters.centers, training)
    if self.clustering.num_points:
      clusters = self._refine_references(clusters, training)
      if self.clustering.coordinate_convolutions:
        narrow_pixels, narrow_centers = self._with_coordinates(
            narrow_pixels, narrow_centers, clusters.references[-1], size, training)
    if not self.clustering.updates_clusters:
      pixels, centers = self.exchange(pixels, clusters.centers, narrow_pixels, narrow_centers,
                                      training)
      return pixels, clusters._replace(centers=centers)
    return self._cluster(pixels, clusters, narrow_pixels, narrow_centers, training)

  def _cluster(self, pixels, clusters, narrow_pixels, narrow_centers, training):
    """Assigns pixels to clusters and updates both by the assignment (equations 6 to 8)."""
    batch, height, width, _ = dimensions(pixels)
    center_qkv, pixel_qkv = self.projections(narrow_pixels, narrow_centers, training)
    earlier = None
    if clusters.affinities:
      # Where the layer before had another resolution, its logits are resized.
      earlier = resize_bilinear(clusters.affinities[-1], (height, width))
      earlier = tf.reshape(earlier, [batch, height * width, earlier.shape[-1]])
    key, query = merge_heads(pixel_qkv[0]), merge_heads(center_qkv[1])
    logits = self.pixel_attention(key, query, earlier, training=training)
    assignment = tf.nn.softmax(logits)
    report(AssignmentRecord(self, assignment, (height, width)))

    read = self.memory_attention.read(*self.memory_reads(center_qkv, pixel_qkv), training=training,
                                      key_size=(height, width))
    gathered = self.pixel_attention.gather(assignment, merge_heads(pixel_qkv[2]), training)
    centers = self.update_memory(
        clusters.centers, self._activation(read + tf.cast(gathered, read.dtype)), training)
    # Pixels read the centers as they were before this layer.
    read = self.pixel_attention.scatter(assignment, merge_heads(center_qkv[2]), training)
    pixels = self.update_pixels(pixels, self._activation(read), training)
    logits = tf.reshape(logits, [batch, height, width, logits.shape[-1]])
    return pixels, clusters._replace(centers=centers, affinities=(*clusters.affinities, logits))

  # === Location-sensitive clustering ===

  def _refine_references(self, clusters: Clusters, training: bool) -> Clusters:
    """Predicts the reference masks from the centers (equations 9 and 10)."""
    hidden = clusters.centers
    for layer in self.reference_mlp:
      hidden = layer(hidden, training=training)
    offset = self.reference_offset(hidden, training=training)
    embedding = clusters.embedding + tf.cast(offset, tf.float32)
    batch, centers, _ = dimensions(embedding)
    points = tf.reshape(tf.sigmoid(embedding), [batch, centers, self.clustering.num_points, 2])
    return clusters._replace(embedding=embedding, references=(*clusters.references, points))

  def _with_coordinates(self, pixels, centers, points, size, training):
    """Adds locations to both paths (equations 11 and 12)."""
    batch, queries, num_points, _ = dimensions(points)
    flat_points = tf.reshape(points, [batch, queries, 2 * num_points])
    centers = self.center_convolution(
        tf.concat([centers, tf.cast(flat_points, centers.dtype)], -1), training=training)
    _, length, channels = dimensions(pixels)
    grid = tf.cast(pixel_coordinates(*size), pixels.dtype)
    maps = tf.concat([tf.reshape(pixels, [batch, *size, channels]),
                      tf.tile(grid[None], [batch, 1, 1, 1])], -1)
    maps = self.pixel_convolution(maps, training=training)
    return tf.reshape(maps, [batch, length, channels]), centers


def pixel_coordinates(height: Dimension, width: Dimension) -> tf.Tensor:
  """Returns (y, x) of each pixel, float32 [height, width, 2]; corners are at 0 and 1."""
  rows, columns = (tf.range(n, dtype=tf.float32) / tf.cast(tf.maximum(n - 1, 1), tf.float32)
                   for n in (height, width))
  return tf.stack(tf.meshgrid(rows, columns, indexing='ij'), axis=-1)


class ClusteringLayers(NamedTuple):
  """Factory of a network's clustering layers; see block_group.QueryLayers.

  Attributes:
    options: Sizes and switches at stride 16; `channels` is proportional to the stride.
    clustering: Switches of the layers.
    center_channels: Channels of the centers.
    norm: Factory of the batch norms.
    beyond_stride: Output stride from which a layer follows each block.
  """
  options: DualPathOptions
  clustering: ClusteringOptions
  center_channels: int
  norm: NormFactory
  beyond_stride: int

  def __call__(self, stride: int, channels: int, output_stride: int,
               keep_prob: float) -> Optional[ClusteringLayer]:
    if not 0 < self.beyond_stride <= output_stride:
      return None
    return ClusteringLayer(channels, self.center_channels, self.options.at_stride(stride),
                           self.clustering, self.norm, keep_prob)
