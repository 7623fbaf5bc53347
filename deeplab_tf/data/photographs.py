"""Image files as users have them: any format and orientation, without a label."""

import numpy as np
from PIL import Image, ImageOps


def read(path: str) -> np.ndarray:
  """Reads an image file, upright as its EXIF data say.

  Args:
    path: Of a file that Pillow can read.

  Returns:
    uint8 [height, width, 3], RGB.

  Raises:
    ValueError: It is no image, or damaged.
  """
  try:
    with Image.open(path) as file:
      image = ImageOps.exif_transpose(file)
      if image.mode.startswith('I'):  # 16 bits, which Pillow would clip.
        high_byte = np.clip(np.asarray(image).astype(np.int64) // 256, 0, 255)
        image = Image.fromarray(high_byte.astype(np.uint8))
      return np.asarray(image.convert('RGB'))
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    reason = str(error).split('\n')[0]
    raise ValueError(f'{path} is no image, or damaged ({reason})') from None
