"""TFRecords: examples, the files that contain them, and the encoded images in them."""

# Suffix of record files while they are written.
INCOMPLETE = '.incomplete'
