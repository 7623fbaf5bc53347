"""Assigns predictions to images by id, or by file name if ids are not sufficient.

Both files state ids, and most state file names. If the two contradict each other, names decide,
since every tool may number images anew. If names are ambiguous too, an error is raised.
"""

from typing import Callable, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from deeplab_tf import image_names
from deeplab_tf.image_names import ImageId
from deeplab_tf.user_errors import DataError


class ListedImage(NamedTuple):
  """An image listed in a file.

  Attributes:
    image_id: Id of the image.
    file_name: Name of the image, or None if the file does not state it.
    png: Name of the PNG of segments, which resembles the name of the image in most files.
  """
  image_id: ImageId
  file_name: Optional[str] = None
  png: Optional[str] = None


class Assignment(NamedTuple):
  """Assignment of predictions to the images of a ground truth.

  Attributes:
    positions: Index of the prediction of each image, or None if there is none.
    warnings: Warnings about how they were paired, one line each.
    hint: Possible reason why the first image without a prediction has none; may be empty.
  """
  positions: Tuple[Optional[int], ...]
  warnings: Tuple[str, ...] = ()
  hint: str = ''


class _Contradiction(NamedTuple):
  """An image and the prediction with the same id, whose names differ."""
  image: ListedImage
  prediction: ListedImage
  named: Optional[ListedImage] = None  # The image with the name of the prediction.
  rival: Optional[ListedImage] = None  # A prediction with another id and a better name.


def assign(images: Sequence[ListedImage], predictions: Sequence[ListedImage], images_path: str,
           path: str) -> Assignment:
  """Finds the prediction of each image.

  Args:
    images: Images that need predictions.
    predictions: Predictions, which may include other images.
    images_path: File of the images, for messages.
    path: File of the predictions, for messages.

  Raises:
    DataError: Ids and names contradict each other, and names do not pair all images.
  """
  position_of = {prediction.image_id: index for index, prediction in enumerate(predictions)}
  by_id = tuple(position_of.get(image.image_id) for image in images)
  contradictions, unlike = _contradictions(images, predictions, by_id)
  if None not in by_id and not contradictions:
    return Assignment(by_id, _unlike_warning(unlike, images_path, path))
  named = _by_name(images, predictions, with_pngs=not contradictions)
  by_name = tuple(named.found)
  if images and None not in by_name:
    return Assignment(by_name, (_by_name_warning(images, predictions, by_name, contradictions,
                                                 images_path, path),))
  if contradictions:
    raise DataError('; '.join([
        _contradiction_line(contradictions, images_path, path),
        f'by name, {_missing_name(images, predictions, named)}', _remedy(images_path)]))
  positions = max(by_id, by_name, key=lambda found: sum(each is not None for each in found))
  return Assignment(positions, (), _hint(images, predictions, positions, named, images_path))


def _contradictions(images: Sequence[ListedImage], predictions: Sequence[ListedImage],
                    by_id: Sequence[Optional[int]]
                    ) -> Tuple[List[_Contradiction], List[_Contradiction]]:
  """Returns pairs of equal id that have names of different images, and other unlike names."""
  find_image, find_prediction = _finder(images), _finder(predictions)
  contradictions, unlike = [], []
  for index, position in enumerate(by_id):
    image, prediction = images[index], None if position is None else predictions[position]
    if prediction is None or not prediction.file_name or not image.file_name:
      continue
    fitting = find_image(prediction.file_name)
    if not fitting:
      unlike.append(_Contradiction(image, prediction))
    elif index not in fitting:
      contradictions.append(_Contradiction(image, prediction, named=images[fitting[0]]))
    elif position not in (better := find_prediction(image.file_name)):
      contradictions.append(_Contradiction(image, prediction, rival=predictions[better[0]]))
  return contradictions, unlike


def _finder(images: Sequence[ListedImage]) -> Callable[[str], List[int]]:
  """Returns a function from a name to the indices of the images that match it best."""
  named = [index for index, image in enumerate(images) if image.file_name]
  index = image_names.NameIndex([images[position].file_name or '' for position in named])
  return lambda name: [named[position] for position in index.find(name)]


def _by_name(images: Sequence[ListedImage], predictions: Sequence[ListedImage],
             with_pngs: bool) -> image_names.Pairing:
  """Pairs by names only; indices refer to the arguments."""
  if with_pngs and not any(prediction.file_name for prediction in predictions):
    predictions = [each._replace(file_name=each.png) for each in predictions]
  if with_pngs:
    images = [each._replace(file_name=each.file_name or each.png) for each in images]
  own, theirs = ([index for index, each in enumerate(side) if each.file_name]
                 for side in (images, predictions))
  pairing = image_names.pair([images[index].file_name or '' for index in own],
                             [predictions[index].file_name or '' for index in theirs])
  found: List[Optional[int]] = [None] * len(images)
  for index, position in zip(own, pairing.found):
    found[index] = None if position is None else theirs[position]
  return image_names.Pairing(
      tuple(found),
      {own[index]: tuple(theirs[each] for each in fitting)
       for index, fitting in pairing.ambiguous.items()},
      {theirs[position]: tuple(own[each] for each in wanting)
       for position, wanting in pairing.others.items()})


# --- Messages ---------------------------------------------------------------------------------


def _unlike_warning(unlike: Sequence[_Contradiction], images_path: str,
                    path: str) -> Tuple[str, ...]:
  if not unlike:
    return ()
  first = unlike[0]
  return (f'{path}: {len(unlike)} images have other file names here than in {images_path}, e.g. '
          f'image {first.image.image_id!r} is {first.prediction.file_name} here and '
          f'{first.image.file_name} there; they are paired by id: make sure that they are the '
          'same images',)


def _by_name_warning(images, predictions, by_name, contradictions, images_path, path) -> str:
  if contradictions:
    return (f'{_contradiction_line(contradictions, images_path, path)}; images are paired by '
            'file name')
  index = next(index for index, image in enumerate(images)
               if image.image_id != predictions[by_name[index]].image_id)
  prediction = predictions[by_name[index]]
  return (f'{path}: image ids are not those of {images_path}, e.g. {prediction.image_id!r} here is '
          f'{images[index].image_id!r} there; images are paired by file name '
          f'({prediction.file_name or prediction.png})')


def _contradiction_line(contradictions: Sequence[_Contradiction], images_path: str,
                        path: str) -> str:
  first = contradictions[0]
  if first.named is not None:
    example = (f'image {first.image.image_id!r} is {first.prediction.file_name} here and '
               f'{first.image.file_name} in {images_path}, where {first.named.file_name} has the '
               f'id {first.named.image_id!r}')
  else:
    example = (f'image {first.image.image_id!r} is {first.image.file_name} in {images_path}, which '
               f'is the name of the prediction {first.rival.image_id!r} here, while that of this '
               f'id is named {first.prediction.file_name}')
  return (f'{path}: the ids and the file names of {len(contradictions)} images contradict each '
          f'other: {example}')


def _missing_name(images, predictions, named: image_names.Pairing) -> str:
  """Explains why names do not pair all images."""
  index = named.found.index(None)
  return (f'image {images[index].image_id!r} ({_name(images[index])}) '
          + (_ambiguity(index, images, predictions, named) or 'has no prediction'))


def _ambiguity(index: int, images, predictions, named: image_names.Pairing) -> str:
  if index in named.ambiguous:
    fitting = image_names.shown(_name(predictions[each]) for each in named.ambiguous[index])
    return f'has an ambiguous name: it may be {fitting} of the predictions'
  for position, wanting in named.others.items():
    if index in wanting:
      rivals = image_names.shown(_name(images[each]) for each in wanting)
      return (f'has no prediction of its own: {_name(predictions[position])} is ambiguous and may '
              f'be any of {rivals}')
  return ''


def _hint(images, predictions, positions, named: image_names.Pairing, images_path: str) -> str:
  index = positions.index(None) if None in positions else None
  if index is None or not predictions:
    return ''
  image = images[index]
  other = image_names.other_type(image.image_id, (each.image_id for each in predictions))
  hints = []
  if other is not None:
    hints.append(f'it has {image_names.with_type(other)}, and '
                 f'{image_names.with_type(image.image_id)} is asked for')
  ambiguity = _ambiguity(index, images, predictions, named)
  if ambiguity:
    hints.append(f'by name, the image {ambiguity}')
  if all(position is None for position in positions) or hints:
    hints.append(_remedy(images_path))
  return '; '.join(hints)


def _remedy(images_path: str) -> str:
  return f'predict with --ground_truth={images_path} to take the image ids from there'


def _name(image: ListedImage) -> str:
  return image.file_name or image.png or repr(image.image_id)


def first_ids(ids: Iterable[ImageId]) -> str:
  """Returns the first ids in sorted order, for a message."""
  return ', '.join(map(repr, sorted(ids, key=image_names.id_order)[:3]))
