"""evaluation/submission.py, run as a user runs it."""

import json
import zipfile

import numpy as np
import programs
import pytest

from deeplab_tf.formats import coco_panoptic


@pytest.fixture
def predictions(tmp_path):
  """A folder as evaluation/predict.py leaves it."""
  coco_panoptic.write_panoptic_png(tmp_path / '000000000042.png', np.full((4, 6), 1))
  (tmp_path / 'predictions.json').write_text(json.dumps({'annotations': [
      {'image_id': 42, 'file_name': '000000000042.png',
       'segments_info': [{'id': 1, 'category_id': 187, 'score': 0.9}]}]}))
  return tmp_path


def test_predictions_become_a_zip(predictions):
  output = predictions / 'submission.zip'
  done = programs.run('evaluation/submission.py', '--benchmark=coco_panoptic',
                      f'--predictions={predictions}', f'--output={output}')
  assert '1 images written' in done.stdout
  assert '20288' in done.stderr
  with zipfile.ZipFile(output) as archive:
    assert archive.testzip() is None
    assert len(archive.namelist()) == 2


def test_wrong_use_is_one_line(predictions):
  line = programs.error_line('evaluation/submission.py', '--benchmark=coco_panoptic',
                             f'--predictions={predictions}', '--output=no/such/folder/a.zip')
  assert 'no/such/folder/a.zip' in line
  (predictions / 'images.json').write_text('{"images": [{"id": 7}]}')
  line = programs.error_line('evaluation/submission.py', '--benchmark=coco_panoptic',
                             f'--predictions={predictions}', f'--output={predictions}/a.zip',
                             f'--images={predictions}/images.json')
  assert 'have no prediction, the first is 7' in line
