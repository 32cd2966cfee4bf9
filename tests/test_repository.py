"""What a reader meets first: notebooks as executed, the README's commands, the hand-in."""

import ast
import re
import shutil
import statistics
import subprocess
import zipfile

import nbformat
import pytest
from helpers import ROOT
from notebook_definitions import _defines_only, load

NOTEBOOKS = sorted(ROOT.glob("HW_04_*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIMITS = {"HW_04_theory.ipynb": 1.5e6, "HW_04_music_gan.ipynb": 8e6}


def code_cells(path):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_both_parts_are_judged_by_these_tests():
    assert {path.name for path in NOTEBOOKS} == set(LIMITS)


def test_notebook_was_executed_once_from_top_to_bottom(notebook):
    cells = code_cells(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def test_notebook_is_small_and_names_no_machine(notebook):
    assert notebook.stat().st_size < LIMITS[notebook.name]
    assert not re.search(r"/(root|tmp|home/\w+|Users/\w+)/", notebook.read_text(encoding="utf-8"))


def test_cells_define_or_run_and_are_short(notebook):
    cells = code_cells(notebook)
    lengths = [len(c.source.splitlines()) for c in cells]
    assert max(lengths) <= 40 and statistics.median(lengths) <= 10 and len(cells) <= 90
    assert sum("parameters" in c.metadata.get("tags", []) for c in cells) == 1
    for cell in cells:
        tags, tree = cell.metadata.get("tags", []), ast.parse(cell.source)
        if "definitions" in tags:
            assert all(map(_defines_only, tree.body))
        else:
            assert not [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        if "check" in tags:
            assert any(isinstance(n, ast.Assert) for n in ast.walk(tree))
    assert max(len(line) for c in cells for line in c.source.splitlines()) <= 100


def test_code_follows_words(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    explained = [before.cell_type == "markdown" for before, cell in zip(cells, cells[1:])
                 if cell.cell_type == "code"]
    assert statistics.mean(explained) >= 0.8


def test_notebook_defines_its_contract():
    gan = load("HW_04_music_gan")
    assert all(hasattr(gan, name) for name in ("Config", "train", "diagnose", "generate"))


def test_definitions_that_run_something_are_refused(tmp_path, monkeypatch):
    import notebook_definitions
    cell = nbformat.v4.new_code_cell("x = print('hello')", metadata={"tags": ["definitions"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "odd.ipynb")
    monkeypatch.setattr(notebook_definitions, "ROOT", tmp_path)
    with pytest.raises(SyntaxError, match="odd.ipynb cell 0.*line 1"):
        load("odd")


def test_readme_has_two_commands_of_one_line():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert all(path.name in commands[0] for path in NOTEBOOKS) and "pytest" in commands[1]


def test_readme_names_every_file_at_the_top():
    for path in ROOT.iterdir():
        if path.suffix in (".ipynb", ".py", ".txt"):
            assert f"`{path.name}`" in README


def test_runs_hold_what_the_notebook_wrote():
    runs = sorted((ROOT / "runs" / "live").glob("*/events*"))
    assert {path.parent.name for path in runs} == {"plain", "modern", "recurrent", "embedding"}
    assert all(re.fullmatch(r"events\.out\.tfevents\.\d\.\w+", path.name) for path in runs)
    assert sum(p.stat().st_size for p in (ROOT / "runs").rglob("*") if p.is_file()) < 25e6


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"),
                    reason="the hand-in is made out of a clone")
def test_hand_in_holds_everything_and_nothing_else(tmp_path):
    command = next(line for line in README.splitlines() if line.startswith("STDNUM="))
    target = tmp_path / "HW_04_99999999.zip"
    command = command.replace("STDNUM=99999999", f"STDNUM={target.stem[6:]}").replace(
        '--output="', f'--output="{tmp_path}/')
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True)
    names = zipfile.ZipFile(target).namelist()
    for name in ("HW_04_music_gan.ipynb", "Music.py", "Quality.py", "requirements.txt",
                 "README.md", "tests/test_music_gan.py"):
        assert name in names
    assert any(name.startswith("runs/live/modern/events") for name in names)
    assert not [n for n in names if re.search(r"\.(flac|mp3|ogg|opus|wav|pt|npy)$|^data/", n)]
