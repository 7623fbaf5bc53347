"""Finds files by the names that a JSON states, though another system wrote them."""

import os
import pathlib
from typing import Dict, List, Optional, Union

from deeplab_tf import listing
from deeplab_tf.metrics import image_names


class StatedFiles:
  """The files below a folder.

  A name that is there as it stands costs one look. Only if it is not, all files are listed, once.

  Attributes:
    folder: Path of the folder.
  """

  def __init__(self, folder: Union[str, 'os.PathLike[str]']):
    """Takes the folder; it need not exist."""
    self.folder = pathlib.Path(folder)
    self._names: Optional[List[str]] = None
    self._like: Dict[str, List[str]] = {}
    self._index = image_names.NameIndex([])

  def find(self, name: str) -> Optional[pathlib.Path]:
    """Returns the path of a file.

    Args:
      name: As stated: below the folder, with `/` or `\\`, in small letters or capitals, with
        accents of one letter or two.

    Returns:
      The path; None if no file has this name, or several have it in different spellings.
    """
    path = self.folder / name
    if path.is_file():
      return path
    self._list()
    like = self._like.get(_spelling(name), [])
    return self.folder / like[0] if len(like) == 1 else None

  def near(self, name: str) -> str:
    """Returns words about the files that may be meant by a name that is not found; else none."""
    names = self._list()
    near = self._like.get(_spelling(name)) or [names[each] for each in self._index.find(name)]
    return f'; near that name is {image_names.shown(near)}' if near else ''

  def _list(self) -> List[str]:
    if self._names is None:
      self._names = listing.files_below(self.folder) if self.folder.is_dir() else []
      self._index = image_names.NameIndex(self._names)
      for each in self._names:
        self._like.setdefault(_spelling(each), []).append(each)
    return self._names


def _spelling(name: str) -> str:
  return image_names.normalized(name).casefold()
