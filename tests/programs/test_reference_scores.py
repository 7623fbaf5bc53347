"""The tables of docs/evaluation.md can be reproduced, and our numbers equal the references'."""

import pathlib

import programs
import pytest
import shared

DOCS = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'evaluation.md'


@pytest.mark.parity
def test_the_tables_of_the_docs_are_what_the_script_prints():
  folder = shared.path('parity', 'evaluation')
  printed = programs.run('scripts/reference_scores.py', f'--reference_dir={folder}').stdout
  rows = [[cell.strip() for cell in line.strip('|').split('|')]
          for line in printed.splitlines() if line.startswith('|')]
  documented = DOCS.read_text()
  for name, *cells in rows:
    # The last digit of a difference is the machine's.
    differences = [cell for cell in cells if 'e-' in cell]
    assert all(float(cell) < 1e-9 for cell in differences)
    assert f'| {name} | {" | ".join(c for c in cells if c not in differences)}' in documented
