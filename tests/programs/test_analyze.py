"""evaluation/analyze.py, called in this process to import TensorFlow only once."""

import importlib.util
import json
import pathlib
import types

import numpy as np
import pytest
import tiny
import tiny_classification
import tiny_cmt
import tiny_mask2former
from PIL import Image

import deeplab_tf
from deeplab_tf.checkpoints import convert
from deeplab_tf.compat import keras
from deeplab_tf.data import catalog
from deeplab_tf.reports.queries import analyzed_network as network_lib
from deeplab_tf.reports.queries import query_survey
from deeplab_tf.training.reporting import summaries

_PATH = pathlib.Path(__file__).resolve().parents[2] / 'evaluation' / 'analyze.py'
_SPEC = importlib.util.spec_from_file_location('analyze', _PATH)
analyze = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(analyze)


@pytest.fixture(scope='module')
def untrained(tmp_path_factory):
  """Config and checkpoint of a model whose pixel features have three channels."""
  folder = tmp_path_factory.mktemp('analyze')
  path = tiny.write_config(folder)
  path.write_text(path.read_text().replace('pixel_space_head { output_channels: 16',
                                           'pixel_space_head { output_channels: 3'))
  keras.utils.set_random_seed(1)
  prefix = convert.save_checkpoint(deeplab_tf.build_model(deeplab_tf.load_config(path)),
                                   str(folder / 'run' / 'ckpt-0'))
  writer = summaries.Writer(str(folder / 'run'), summaries.TRAIN)
  for step in (1, 2, 3):
    writer.scalars({'statistics/mask_id_accuracy': step / 4}, step)
  writer.close()
  return path, prefix


@pytest.mark.parametrize('fields, panels', [
    ('', 'two layers, final masks, points, attention before and after'),
    (tiny_cmt.NO_CLUSTERING, 'points'), (tiny_cmt.NO_REFERENCES, 'no points')])
def test_clusters_are_shown(tmp_path, fields, panels):
  path = tiny_cmt.write_config(tmp_path)
  overrides = [tiny_cmt.override(fields)] + (
      [tiny_cmt.NO_APPROXIMATION] if fields == tiny_cmt.NO_REFERENCES else [])
  keras.utils.set_random_seed(1)
  prefix = convert.save_checkpoint(
      deeplab_tf.build_model(deeplab_tf.load_config(path, overrides)),
      str(tmp_path / 'run' / 'ckpt-0'))
  flags = _flags((path, prefix), tmp_path / 'out', '--num_images=2',
                 *[f'--override={text}' for text in overrides])
  assert analyze.main(flags) == 0
  numbers = json.loads((tmp_path / 'out' / 'analysis.json').read_text())
  clusters = numbers['clustering']
  assert [entry['number'] for entry in clusters] == list(range(1, len(clusters) + 1))
  for entry in clusters:
    with Image.open(tmp_path / 'out' / f'clustering_{entry["number"]}.png') as picture:
      assert min(picture.size) > 200
    if panels == 'points':
      assert 'dense_after' not in entry
    else:
      assert all(0 <= share <= 1 for name in ('dense_before', 'dense_after')
                 for share in entry[name])
  layers = numbers.get('layer_masks', [])
  assert all(len(entry['iou_with_the_last']) == 2 for entry in layers)
  assert bool(layers) == (panels != 'points')


def _flags(untrained, output, *more):
  return [f'--config_file={untrained[0]}', f'--checkpoint={untrained[1]}',
          f'--output_dir={output}', *more]


def test_everything_is_written_and_shown_on_one_page(untrained, tmp_path, capsys):
  assert analyze.main(_flags(untrained, tmp_path / 'out')) == 0
  assert 'heads 1 to 8' in capsys.readouterr().out
  pictures = ['query_classes', 'average_masks', 'memory_share', 'features', 'training_curves',
              *(f'attention_{number}' for number in (1, 2, 3))]
  for name in pictures:
    with Image.open(tmp_path / 'out' / f'{name}.png') as picture:
      assert min(picture.size) > 200
  page = (tmp_path / 'out' / 'analysis.html').read_text()
  assert page.count('src="data:image/') == len(pictures)
  numbers = json.loads((tmp_path / 'out' / 'analysis.json').read_text())
  for title in ('Masks of the decoder layers', 'Proposals of the decoder layers'):
    assert 'after its last layer only' in numbers['notices'][title][0]
  histogram = np.array(numbers['query_classes']['histogram'])
  assert histogram.shape == (16, 9) and histogram.max() <= numbers['images'] == 4
  assert [c['isthing'] for c in numbers['query_classes']['classes']] == [True] * 6 + [False] * 3
  never = numbers['average_masks']['never']
  assert never == np.flatnonzero(histogram.sum(axis=1) == 0).tolist()
  assert numbers['features'] == {'channels': 3, 'mapping': 'direct', 'explained': 1.0,
                                 'pictures': [f'shapes_val_0_{i:06d}' for i in range(3)]}
  assert numbers['curves'] == {'statistics/mask_id_accuracy':
                               {'steps': [1, 2, 3], 'values': [0.25, 0.5, 0.75]}}
  assert 'validation PQ' in numbers['notices']['Training curves'][0]
  with np.load(tmp_path / 'out' / 'average_masks.npz') as arrays:
    assert arrays['masks'].shape[0] == 16 and arrays['masks'].max() <= 1
  with np.load(tmp_path / 'out' / 'attention.npz') as arrays:
    shares = np.array([m['memory_share'] for m in numbers['attention']['pictures'][0]['masks']])
    np.testing.assert_allclose(arrays['weights_1'].sum(axis=(2, 3)) + shares.T, 1, atol=1e-5)


def test_own_images_and_chosen_queries_are_shown(untrained, tmp_path):
  photo = tmp_path / 'photo.png'
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(photo)
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'attention_2.png').write_text('of an earlier run')
  assert analyze.main(_flags(
      untrained, out, f'--images={photo}', '--num_images=1', '--queries', '3', '15',
      f'--model_dir={tmp_path}',
      '--override=evaluator_options { transformer_class_confidence_threshold: 1.0 }')) == 0
  numbers = json.loads((out / 'analysis.json').read_text())
  assert numbers['images'] == 1 and not (out / 'attention_2.png').exists()
  (picture,) = numbers['attention']['pictures']
  assert picture['name'] == 'photo' and [m['query'] for m in picture['masks']] == [3, 15]
  assert numbers['average_masks']['never'] == list(range(16))
  page = (out / 'analysis.html').read_text()
  assert 'no query is left in any panoptic prediction' in page and '--model_dir' in page
  assert not (out / 'average_masks.png').exists()


def test_the_queries_of_mask2former_are_analyzed(tmp_path, capsys):
  path = tiny_mask2former.write_config(tmp_path)
  config = deeplab_tf.load_config(path)
  prefix = convert.save_checkpoint(deeplab_tf.build_model(config), str(tmp_path / 'ckpt-0'))
  assert analyze.main(_flags((path, prefix), tmp_path / 'out', '--num_images=1')) == 0
  with Image.open(tmp_path / 'out' / 'query_classes.png') as picture:
    assert min(picture.size) > 200
  numbers = json.loads((tmp_path / 'out' / 'analysis.json').read_text())
  assert np.array(numbers['query_classes']['histogram']).shape == (12, 9)
  # The last layer reads the features of stride 8, whose softmax has no memory.
  with np.load(tmp_path / 'out' / 'attention.npz') as arrays:
    weights = arrays['weights_1']
  assert weights.shape[0] == 4 and weights.shape[2:] == (8, 12)
  np.testing.assert_allclose(weights.sum(axis=(2, 3)), 1, atol=1e-5)
  # Its three layers make four predictions, the last of which is the one that is shown.
  (layers,) = numbers['layer_masks']
  agreement = np.array(layers['iou_with_the_last'])
  assert agreement.shape == (4, len(layers['queries'])) and (agreement[3] == 1).all()
  assert 0 <= agreement.min() < 1
  # The recall of all predictions.
  found = numbers['proposals']
  assert found['layers'] == [0, 1, 2, 3] and len(found['examples']) == 1
  assert all(0 <= recall <= 1 for recall in found['AR100']) and len(found['AR100']) == 4
  ious = np.array(found['examples'][0]['ious'])
  assert ious.shape == np.shape(found['examples'][0]['queries'])
  assert ious.shape == (4, len(found['examples'][0]['class_ids'])) and 0 < ious.max() <= 1
  assert f'before the first) 0: {100 * found["AR100"][0]:.1f}, 1: ' in capsys.readouterr().out
  for name in ('layer_masks_1', 'proposal_recall', 'proposals'):
    with Image.open(tmp_path / 'out' / f'{name}.png') as picture:
      assert min(picture.size) > 200
  page = (tmp_path / 'out' / 'analysis.html').read_text()
  assert f'<th scope="row">after layer 3</th><td>{100 * found["AR100"][3]:.1f}</td>' in page


def test_a_decoder_without_attention_and_learned_queries_is_analyzed(tmp_path, capsys):
  override = ('model_options { mask2former { transformer_decoder { cross_attention: MASK_POOLING '
              'query_features: ZERO } } }')
  path = tiny_mask2former.write_config(tmp_path)
  model = deeplab_tf.build_model(deeplab_tf.load_config(path, [override]))
  prefix = convert.save_checkpoint(model, str(tmp_path / 'ckpt-0'))
  flags = _flags((path, prefix), tmp_path / 'out', '--num_images=1', f'--override={override}')
  assert analyze.main(flags) == 0
  numbers = json.loads((tmp_path / 'out' / 'analysis.json').read_text())
  # There is no prediction before the first of the three layers.
  assert numbers['proposals']['layers'] == [1, 2, 3] and 'attention' not in numbers
  assert np.shape(numbers['layer_masks'][0]['iou_with_the_last'])[0] == 3
  assert f'before the first) 1: {100 * numbers["proposals"]["AR100"][0]:.1f}, 2: ' in (
      capsys.readouterr().out)
  page = (tmp_path / 'out' / 'analysis.html').read_text()
  assert 'queries do not attend to the pixels of one feature map' in page
  assert 'after layer 1' in page and 'before layer 1' not in page and 'Layer 0' not in page


@pytest.mark.parametrize('task,classes', [('INSTANCE', 6), ('SEMANTIC', 9)])
def test_models_of_other_tasks_are_analyzed_too(tmp_path, task, classes):
  path, override = tiny_mask2former.write_config(tmp_path), f'task: {task}'
  model = deeplab_tf.build_model(deeplab_tf.load_config(path, [override]))
  prefix = convert.save_checkpoint(model, str(tmp_path / 'ckpt-0'))
  flags = _flags((path, prefix), tmp_path / 'out', '--num_images=1', f'--override={override}')
  assert analyze.main(flags) == 0
  numbers = json.loads((tmp_path / 'out' / 'analysis.json').read_text())
  assert np.array(numbers['query_classes']['histogram']).shape == (12, classes)
  # Classes without instances have no proposals.
  assert ('proposals' in numbers) == (task == 'INSTANCE')


def test_an_empty_data_set_is_refused():
  network = types.SimpleNamespace(num_queries=4, dataset_info=catalog.built_in('shapes'))
  with pytest.raises(ValueError, match='contains no images'):
    query_survey.survey(network, [], 3)


def test_a_model_without_masks_is_refused(tmp_path):
  path = tiny_classification.write_experiment(tmp_path)
  with pytest.raises(ValueError, match='classification has none'):
    network_lib.AnalyzedNetwork(deeplab_tf.load_config(path), 'nowhere')


def test_wrong_use_is_one_line(untrained, tmp_path, capsys):
  file = tmp_path / 'file'
  file.write_text('')
  config, prefix = untrained
  for flags, words in (
      (_flags((config, tmp_path / 'ckpt-7'), tmp_path), 'no such checkpoint'),
      (_flags(untrained, file), 'is a file; give a folder'),
      (_flags(untrained, tmp_path, '--model_dir=nowhere'), '--model_dir=nowhere: no such folder'),
      (_flags(untrained, tmp_path, '--images=nowhere.png'), 'nowhere.png: no such file'),
      (_flags(untrained, tmp_path, f'--images={file}'), 'is not an image'),
      (_flags(untrained, tmp_path, '--queries=16'), 'has no query 16'),
      (_flags(untrained, tmp_path, '--queries', *'01234'), 'at most four'),
      (_flags(untrained, tmp_path, '--num_images=0'), 'is not a whole number'),
      (_flags(('nowhere.textproto', prefix), tmp_path), 'no such file'),
  ):
    assert analyze.main(flags) == 2, flags
    lines = capsys.readouterr().err.strip().split('\n')
    assert lines[-1].startswith('error: ') and words in lines[-1], lines
