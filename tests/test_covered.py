"""What counts as run: every statement of a module, and of the cells of a notebook that define."""

import os
import subprocess
import sys
from pathlib import Path

import coverage
import nbformat
import pytest

import covered
import notebook_definitions
from helpers import ROOT, TESTS

SOURCE = '''"""Words."""
X = 1


def half(x):
    """Words."""
    return (x
            / 2)
'''


def test_lines_that_were_not_run_are_named(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    half = covered.covered(path, {"module.py": {2, 5}})
    assert half.missed == {"module.py": [7]}
    assert half.percent == pytest.approx(100 * 2 / 3)
    whole = covered.covered(path, {"module.py": {2, 5, 7}})
    assert whole.missed == {}
    assert whole.percent == 100
    nothing = covered.covered(path, {})
    assert nothing.percent == 0


def test_only_the_cells_of_a_notebook_that_define_count(tmp_path):
    path = tmp_path / "some.ipynb"
    cells = [nbformat.v4.new_markdown_cell("words"),
             nbformat.v4.new_code_cell("y = half(3)"),
             nbformat.v4.new_code_cell(SOURCE, metadata={"tags": ["definitions"]})]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    found = covered.covered(path, {})
    assert found.missed == {"some.ipynb, cell 2": [2, 5, 7]}


def test_code_of_a_notebook_has_the_name_that_is_counted():
    gan = notebook_definitions.load("HW_04_music_gan")
    path = notebook_definitions.ROOT / "HW_04_music_gan.ipynb"
    assert gan.frames_of.__code__.co_filename in covered.sources_of(path)


USED = """
import sys
import coverage
import covered
import notebook_definitions

theory = notebook_definitions.load("HW_04_theory")
name = theory.rounded.__code__.co_filename
print(name in covered.lines_run())
"""


@pytest.mark.slow
def test_the_settings_measure_cells_and_nothing_of_others(tmp_path):
    settings = ROOT / ".ci" / "coverage.ini"
    script = tmp_path / "use.py"
    script.write_text(USED)
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", str(script)]
    paths = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True)
    assert done.stdout.split() == ["True"], done.stderr
    data = coverage.CoverageData(str(tmp_path / "data" / ".coverage"))
    data.read()
    names = {Path(file).name for file in data.measured_files()}
    assert names
    assert not [name for name in names if not name.startswith("HW_04_theory.ipynb, cell")]


def test_the_report_says_what_is_too_little():
    first, *_ = covered.report({})
    assert first.startswith("Music.py: 0.0 % of ")
    assert first.endswith("run, below 95 %")
