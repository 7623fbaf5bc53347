"""Finds files by names that were written by another system or program.

A JSON may contain `train\\a.jpg` or `A.JPG` for `train/a.jpg`, or have another Unicode
normalization than the file system. Such a name is resolved if it is unambiguous.
"""

import os
import re
import unicodedata
from typing import Iterable, Optional

from deeplab_tf import listing, modules

_MOST_COMPARED = 20000


def key(name: str) -> str:
  """Returns a name in a form that ignores case and Unicode normalization.

  Args:
    name: Base name of a file.
  """
  return unicodedata.normalize('NFC', name).casefold()


def parts(name: str) -> list[str]:
  """Returns the parts of a path with separators of any system."""
  return [part for part in name.replace('\\', '/').split('/') if part not in ('', '.')]


def stem(name: str) -> str:
  """Returns the base name of a file without extension, in Unicode normal form C."""
  return unicodedata.normalize('NFC', os.path.splitext(re.split(r'[/\\]', name)[-1])[0])


def resolve(folder: str, names: Iterable[str]) -> dict[str, Optional[str]]:
  """Finds files by names.

  A file with exactly the given name has priority. Otherwise, Windows separators, case and Unicode
  normalization are ignored, as well as folders up to the searched folder; the name must then match
  a single file, and no other name may match that file.

  Args:
    folder: Folder that the names are relative to; it exists.
    names: File names, possibly with subfolders.

  Returns:
    Name -> path on disk, relative to the folder; None if there is no such file.
  """
  lookup = _Lookup(folder)
  names = list(dict.fromkeys(names))
  found = {name: name for name in names if lookup.holds(name)}
  taken, near = set(found.values()), {}
  for name in names:
    if name not in found:
      near.setdefault(lookup.near(name), []).append(name)
  found.update({those[0]: path for path, those in near.items()
                if path is not None and path not in taken and len(those) == 1})
  return {name: found.get(name) for name in names}


def nearest(folder: str, name: str) -> str:
  """Returns ' Did you mean "x"?' for the file with the most similar name, or an empty string.

  Args:
    folder: Folder that the name is relative to.
    name: File name that `resolve` does not find.
  """
  lookup, wanted = _Lookup(folder), parts(name)
  if not wanted:
    return ''
  choices = {place: sorted(entry for entry in lookup.entries(place)
                           if not listing.is_hidden(entry))
             for place in ('/'.join(wanted[:-1]), '')}
  # Numbered names are all similar: first the same name elsewhere, or with another extension.
  for same in (key, lambda entry: key(os.path.splitext(entry)[0])):
    for place, entries in choices.items():
      alike = [entry for entry in entries if same(entry) == same(wanted[-1])]
      if alike:
        return f' Did you mean "{os.path.join(place, alike[0])}"?'
  place, entries = next(((place, found) for place, found in choices.items() if found), ('', []))
  return modules.nearest('/'.join(wanted), [os.path.join(place, entry)
                                            for entry in entries[:_MOST_COMPARED]])


class _Lookup:
  """The entries of a folder and its subfolders, listed on demand."""

  def __init__(self, folder):
    self._folder = folder
    self._entries = {}
    self._by_key = {}

  def entries(self, place):
    """Returns the names in a subfolder; none if it does not exist."""
    if place not in self._entries:
      try:
        self._entries[place] = frozenset(os.listdir(os.path.join(self._folder, place)))
      except (FileNotFoundError, NotADirectoryError):
        self._entries[place] = frozenset()
    return self._entries[place]

  def holds(self, name):
    """Returns whether there is a file with exactly this name."""
    place, last = os.path.split(name)
    return last in self.entries(place)

  def near(self, name):
    """Returns the only path that matches a name; None if there are none or several."""
    wanted = parts(name)
    path = self._walk(wanted)
    own = key(os.path.basename(os.path.abspath(self._folder)))
    keys = [key(part) for part in wanted[:-1]]
    if path is None and own in keys:
      path = self._walk(wanted[len(keys) - keys[::-1].index(own):])
    return path

  def _walk(self, wanted):
    path = ''
    for part in wanted:
      if part not in self.entries(path):
        fitting = self._fitting(path).get(key(part), ())
        if len(fitting) != 1:
          return None
        part = fitting[0]
      path = f'{path}/{part}' if path else part
    return path or None

  def _fitting(self, place):
    if place not in self._by_key:
      by_key = self._by_key[place] = {}
      for entry in self.entries(place):
        if not listing.is_hidden(entry):
          by_key.setdefault(key(entry), []).append(entry)
    return self._by_key[place]
