"""Small versions of the tables 4 and 5 of Mask2Former's paper, on the synthetic data set `shapes`.

  python scripts/mask2former_tables.py --output_dir=runs/mask2former_tables --minutes=60

Each row is a training of configs/shapes/mask2former_tables.textproto with other options. Finished
trainings are passed over, and each result is added to a file, so that the same command goes on
where it was stopped. --minutes=0 prints the tables alone.
"""

import small_tables
from small_tables import Row

CONFIG = 'configs/shapes/mask2former_tables.textproto'


def _decoder(options: str) -> str:
  return f'model_options {{ mask2former {{ transformer_decoder {{ {options} }} }} }}'


def _pixels(options: str) -> str:
  return f'model_options {{ mask2former {{ pixel_decoder {{ {options} }} }} }}'


def _losses(options: str) -> str:
  return f'trainer_options {{ loss_options {{ mask2former_loss {{ {options} }} }} }}'


_AS_IT_IS, _FULL = '', _decoder('cross_attention: FULL')
# In place of the pixels of the mask logits, which the small config compares.
_POINTS = 'num_points: 1024'
TABLES = {
    '4a': (Row('Mask2Former', _AS_IT_IS, 51.9),
           Row('without masked attention', _FULL, 47.1),
           Row('without high-resolution features', _decoder('scales: STRIDE_32'), 50.2)),
    '4b': (Row('Mask2Former', _AS_IT_IS, 51.9),
           Row('without learnable query features', _decoder('query_features: ZERO'), 51.2),
           Row('without cross-attention first', _decoder('self_attention_first: true'), 51.6),
           Row('with dropout', _decoder('dropout_rate: 0.1'), 51.3),
           Row('all three', _decoder('query_features: ZERO self_attention_first: true '
                                     'dropout_rate: 0.1'), 50.8)),
    '4c': (Row('cross-attention', _FULL, 47.1),
           Row('SMCA', _decoder('cross_attention: SMCA'), 47.2),
           Row('mask pooling', _decoder('cross_attention: MASK_POOLING'), 51.5),
           Row('masked attention', _AS_IT_IS, 51.9)),
    '4d': (Row('single scale (1/32)', _decoder('scales: STRIDE_32'), 50.2),
           Row('single scale (1/16)', _decoder('scales: STRIDE_16'), 51.5),
           Row('single scale (1/8)', _decoder('scales: STRIDE_8'), 51.8),
           Row('naive multi-scale', _decoder('scales: CONCATENATED'), 51.9),
           Row('efficient multi-scale', _AS_IT_IS, 51.9)),
    '4e': (Row('FPN', _pixels('kind: FPN'), 50.7),
           Row('Semantic FPN', _pixels('kind: SEMANTIC_FPN'), 51.2),
           Row('FaPN', _pixels('kind: FAPN'), 51.8),
           # Of nine layers in the full size, as of six of the deformable attention one is left.
           Row('BiFPN', _pixels('kind: BIFPN num_fusion_layers: 2'), 51.8),
           Row('MSDeformAttn', _AS_IT_IS, 51.9)),
    '5': (Row('matching on masks, loss on masks',
              _losses('matching_at: MASKS loss_at: MASKS'), 50.3),
          Row('matching on masks, loss on points', _losses(f'{_POINTS} matching_at: MASKS'), 50.8),
          Row('matching on points, loss on masks', _losses(f'{_POINTS} loss_at: MASKS'), 51.4),
          Row('matching on points, loss on points', _losses(_POINTS), 51.9)),
}


if __name__ == '__main__':
  small_tables.run(__doc__, CONFIG, TABLES, shown=('4a', '4c', '4e'))
