"""A small version of tables 2a to 2c of CMT-DeepLab's paper, on the synthetic data set `shapes`.

  python scripts/cmt_deeplab_tables.py --output_dir=runs/cmt_deeplab_tables --minutes=60

Each row is a training of configs/shapes/cmt_deeplab_tables.textproto with other options. Finished
trainings are passed over, and each result is added to a file, so that the same command goes on
where it was stopped. --minutes=0 prints the table alone.
"""

import small_tables
from small_tables import Row

CONFIG = 'configs/shapes/cmt_deeplab_tables.textproto'
_NO_CLUSTERING = 'clustering_update: false'
_INSTANCE_LOSS = 'instance_discrimination_sample_k: 0'
_NO_COORDINATES = 'coordinate_convolutions: false'
_NO_REFERENCES = f'num_reference_points: 0 {_NO_COORDINATES}'


def _options(*fields: str, decoder: bool = False) -> str:
  """Returns the override of the config with changed fields of cmt_deeplab."""
  override = f'model_options {{ cmt_deeplab {{ {" ".join(fields)} stronger_decoder: {decoder} }}'
  if not decoder:
    override += ' backbone { name: "max_deeplab_s" }'
  override = override.replace(': True', ': true').replace(': False', ': false') + ' }'
  if _NO_REFERENCES in fields:
    override += ' clear: "trainer_options.loss_options.mask_approximation_loss"'
  return override


TABLES = {'2': (
    Row('baseline: MaX-DeepLab-S with GELU',
        _options(_NO_CLUSTERING, _NO_REFERENCES, _INSTANCE_LOSS), 46.2),
    Row('2a: clustering update', _options(_NO_REFERENCES, _INSTANCE_LOSS), 47.1),
    Row('2a: and pixel-wise contrastive loss', _options(_NO_REFERENCES), 47.5),
    Row('2b: reference masks', _options(_NO_CLUSTERING, _NO_COORDINATES, _INSTANCE_LOSS), 46.6),
    Row('2b: and coordinate convolutions', _options(_NO_CLUSTERING, _INSTANCE_LOSS), 46.9),
    Row('2c: stronger decoder',
        _options(_NO_CLUSTERING, _NO_REFERENCES, _INSTANCE_LOSS, decoder=True), 47.1),
    Row('2c: clustering update, stronger decoder', _options(_NO_REFERENCES, decoder=True), 48.1),
    Row('2c: CMT-DeepLab', '', 48.4))}


if __name__ == '__main__':
  small_tables.run(__doc__, CONFIG, TABLES, shown=tuple(TABLES))
