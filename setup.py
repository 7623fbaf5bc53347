"""Packaging. The library is in deeplab_tf/, the programs are in trainer/ and evaluation/."""

import os
import pathlib

import setuptools
from setuptools.command import build as setuptools_build

ROOT = pathlib.Path(__file__).resolve().parent


class BuildProtos(setuptools.Command):
  """Compiles protos/*.proto into deeplab_tf/protos/*_pb2.py, inside the source tree.

  This is a sub-command of `build` instead of an override of `build_py`: for `pip install -e`
  setuptools turns a failure of build_py into a warning, but a broken .proto must fail the
  installation.
  """

  description = 'compile the protocol buffers'
  user_options = []
  editable_mode = False

  def initialize_options(self):
    pass

  def finalize_options(self):
    pass

  def get_source_files(self):
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'protos').glob('*.proto'))

  def get_outputs(self):
    return []

  def get_output_mapping(self):
    return {}

  def run(self):
    import grpc_tools
    from grpc_tools import protoc
    well_known = os.path.join(os.path.dirname(grpc_tools.__file__), '_proto')
    names = sorted(p.name for p in (ROOT / 'protos').glob('*.proto'))
    arguments = [
        'protoc', f'-I{well_known}', f'-Ideeplab_tf/protos={ROOT / "protos"}',
        f'--python_out={ROOT}'
    ]
    if protoc.main(arguments + [f'deeplab_tf/protos/{name}' for name in names]):
      raise SystemExit('The protocol buffers in protos/ do not compile; see the errors above.')


class Build(setuptools_build.build):
  """Runs `build` after compiling the protos, since the packages need the generated modules."""

  sub_commands = [('build_protos', None)] + setuptools_build.build.sub_commands


GPU_REQUIREMENTS = ['tensorflow[and-cuda]==2.15.1']

setuptools.setup(
    name='deeplab_tf',
    version='0.1.0',
    description='Panoptic segmentation with mask transformers in TensorFlow 2',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.9,<3.12',
    packages=setuptools.find_packages(include=['deeplab_tf', 'deeplab_tf.*'])
    + ['deeplab_tf.trainer', 'deeplab_tf.evaluation'],
    package_dir={'deeplab_tf.trainer': 'trainer', 'deeplab_tf.evaluation': 'evaluation'},
    package_data={'deeplab_tf.data': ['categories/*.json']},
    install_requires=[
        'tensorflow==2.15.1',
        'tensorflow-addons==0.23.0',
        'tf-models-official==2.15.0',
        # Later releases need a protobuf that TensorFlow 2.15 does not allow.
        'tensorflow-metadata>=1.16.1,<1.18',
        'protobuf>=4.25,<4.26',
        'numpy>=1.26,<1.27',
        'scipy>=1.11',
        'pycocotools>=2.0.7',
        'Pillow>=9.5',
        'matplotlib>=3.7',
        'tqdm>=4.65',
    ],
    extras_require={
        'gpu': GPU_REQUIREMENTS,
        # tensorflow-datasets needs importlib_resources to prepare data and does not declare it.
        'tfds': ['tensorflow-datasets>=4.9,<5', 'importlib_resources'],
        'test': [
            'pytest>=7.4', 'pytest-xdist>=3.7', 'hypothesis>=6.90', 'ruff>=0.6,<0.18',
            'grpcio-tools>=1.62,<1.63', 'setuptools>=64'
        ],
    },
    entry_points={
        'console_scripts': [
            'deeplab-train = deeplab_tf.trainer.train:main',
            'deeplab-export = deeplab_tf.trainer.export:main',
            'deeplab-evaluate = deeplab_tf.evaluation.evaluate:main',
            'deeplab-predict = deeplab_tf.evaluation.predict:main',
            'deeplab-summary = deeplab_tf.evaluation.summary:main',
        ]
    },
    cmdclass={'build': Build, 'build_protos': BuildProtos},
    zip_safe=False,
)
