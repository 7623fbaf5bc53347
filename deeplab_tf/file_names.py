"""Finds files by names that another system or another program has written down.

A JSON may say `train\\a.jpg` or `A.JPG` for `train/a.jpg`, or spell an umlaut in two characters
where the disk has one. Such a name is found where only one file can be meant by it.
"""

import os
import unicodedata
from typing import Iterable, Optional

from deeplab_tf import listing, modules

_MOST_COMPARED = 20000


def key(name: str) -> str:
  """Returns what spellings of a name have in common: capitals and composed letters do not count.

  Args:
    name: A file name without folders.
  """
  return unicodedata.normalize('NFC', name).casefold()


def parts(name: str) -> list[str]:
  """Returns the folders and the name that a file name consists of, whoever's separators it has."""
  return [part for part in name.replace('\\', '/').split('/') if part not in ('', '.')]


def stem(name: str) -> str:
  """Returns the name of a file without folders and extension, with composed letters."""
  return unicodedata.normalize('NFC', os.path.splitext(os.path.basename(name))[0])


def resolve(folder: str, names: Iterable[str]) -> dict[str, Optional[str]]:
  """Finds files by names.

  A file of exactly that name comes first. Otherwise separators of Windows, capitals and composed
  letters do not count, and folders up to the one that is searched are left out; the file must then
  be the only one that fits, and no other of the names may fit it.

  Args:
    folder: Where the names begin. It exists.
    names: File names, with sub-folders or not.

  Returns:
    Name -> path relative to the folder as it is on disk; None where there is none.
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
  """Returns ' Did you mean "x"?' for the file nearest to a name, or an empty string.

  Args:
    folder: Where the name begins.
    name: A file name that `resolve` does not find.
  """
  lookup, wanted = _Lookup(folder), parts(name)
  if not wanted:
    return ''
  choices = {place: sorted(entry for entry in lookup.entries(place)
                           if not listing.is_hidden(entry))
             for place in ('/'.join(wanted[:-1]), '')}
  # Numbered names are near to any other: first the same name elsewhere, or with another extension.
  for same in (key, lambda entry: key(os.path.splitext(entry)[0])):
    for place, entries in choices.items():
      alike = [entry for entry in entries if same(entry) == same(wanted[-1])]
      if alike:
        return f' Did you mean "{os.path.join(place, alike[0])}"?'
  place, entries = next(((place, found) for place, found in choices.items() if found), ('', []))
  return modules.nearest('/'.join(wanted), [os.path.join(place, entry)
                                            for entry in entries[:_MOST_COMPARED]])


class _Lookup:
  """The entries of a folder and those below it, each listed when it is needed."""

  def __init__(self, folder):
    self._folder = folder
    self._entries = {}
    self._by_key = {}

  def entries(self, place):
    """The names in a sub-folder; none where there is no such folder."""
    if place not in self._entries:
      try:
        self._entries[place] = frozenset(os.listdir(os.path.join(self._folder, place)))
      except (FileNotFoundError, NotADirectoryError):
        self._entries[place] = frozenset()
    return self._entries[place]

  def holds(self, name):
    """Whether there is a file of exactly this name."""
    place, last = os.path.split(name)
    return last in self.entries(place)

  def near(self, name):
    """The one path that fits a name; None where there are none or several."""
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
