"""Small backbones: overrides of `model_options` over DeepLab2's, and DeepLab2's over others."""

_DEFAULTS = ('output_stride: 32 stem_width_multiplier: 1 backbone_width_multiplier: 1 '
             'backbone_layer_multiplier: 1')

RESNET = (f'backbone {{ name: "torchvision_resnet50" {_DEFAULTS} drop_path_keep_prob: 1 resnet {{ '
          'stem_channels: 8 middle_channels: 4 stage_channels: 8 num_blocks: [1, 2, 1, 1] } }')

SWIN = (f'backbone {{ name: "swin_tiny" {_DEFAULTS} drop_path_keep_prob: 0.9 '
        'drop_path_schedule: "linear" swin { embedding_channels: 8 num_blocks: [1, 2, 1, 1] '
        'num_heads: [1, 2, 2, 4] window_size: 3 } }')

OPTIONS = {'residual network of torchvision': RESNET, 'Swin': SWIN}


def deeplab2(name: str) -> str:
  """Returns the override of a config with another backbone that makes it a small DeepLab2 one."""
  return f"""
      clear: "model_options.backbone"
      model_options {{
        backbone {{
          name: "{name}" output_stride: 32 stem_width_multiplier: 0.25
          backbone_width_multiplier: 0.125 backbone_layer_multiplier: 0.34
        }}
      }}"""
