"""TFRecords: examples, the files that hold them, and the encoded images in them."""

# Ends the names of record files while they are written.
INCOMPLETE = '.incomplete'
