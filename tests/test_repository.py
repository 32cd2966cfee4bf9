"""What a reader meets first: files, notebooks as executed, the README's commands, the hand-in."""

import ast
import io
import itertools
import re
import statistics
import subprocess
import sys
import tokenize

import nbformat
import pytest

import notebook_definitions
from helpers import ROOT

NOTEBOOKS = sorted(ROOT.glob("HW_04_*.ipynb"))
SCRIPTS = [ROOT / "Music.py", *sorted((ROOT / "tests").rglob("*.py"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAX_BYTES = {"HW_04_theory.ipynb": 2e6, "HW_04_music_gan.ipynb": 9.5e6}
MAX_DENSITY = 11       # nodes of the syntax tree per line of code; librosa has 7, libfmp 11
# the assignment's card names these, and nothing else stands at the top but tests and CI
CARD = {"HW_04_theory.ipynb", "HW_04_music_gan.ipynb", "Music.py", "requirements.txt", "runs",
        "README.md", ".gitignore", ".gitattributes", ".ci", "tests"}


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def lines_of_code(source):
    """Numbers of the lines that hold code: no blanks, comments or docstrings."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
              tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        has_body = isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))
        if has_body and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def density(sources):
    """Nodes of the syntax tree per line of code."""
    nodes = 0
    lines = 0
    for source in sources:
        nodes += len(list(ast.walk(ast.parse(source))))
        lines += len(lines_of_code(source))
    return nodes / lines


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_the_top_holds_what_the_card_names():
    ignored = {".git", ".venv", "data", "checkpoints", ".pytest_cache", "__pycache__"}
    caches = {".mypy_cache", ".ruff_cache", ".ipynb_checkpoints", ".hypothesis"}
    handed_in = {"history.bundle", *(path.with_suffix(".html").name for path in NOTEBOOKS)}
    handed_in |= {path.name for path in ROOT.glob("HW_04_*.zip")}
    found = {path.name for path in ROOT.iterdir()}
    assert found - ignored - caches - handed_in <= CARD
    assert {path.name for path in NOTEBOOKS} == set(MAX_BYTES)


def test_notebook_was_executed_once_from_top_to_bottom(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_notebook_is_small_and_names_no_machine(notebook):
    assert notebook.stat().st_size < MAX_BYTES[notebook.name]
    assert not re.search(r"/(root|tmp|home/\w+|Users/\w+)/", notebook.read_text(encoding="utf-8"))


def test_cells_define_or_run(notebook):
    cells = code_cells(notebook)
    assert sum("parameters" in tags(cell) for cell in cells) == 1
    for cell in cells:
        statements = ast.parse(cell.source).body
        if "definitions" in tags(cell):
            assert all(map(notebook_definitions.defines_only, statements))
        else:
            kinds = (ast.FunctionDef, ast.ClassDef)
            assert not [node for node in statements if isinstance(node, kinds)]


def test_no_run_gives_a_definition_another_meaning(notebook):
    defined = set()
    assigned = set()
    for cell in code_cells(notebook):
        tree = ast.parse(cell.source)
        if "definitions" in tags(cell):
            defined.update(getattr(node, "name", None) for node in tree.body)
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assigned.add(node.id)
    assert not defined & assigned


def test_checks_assert(notebook):
    for cell in code_cells(notebook):
        if "check" in tags(cell):
            assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cell.source)))


def test_cells_are_short(notebook):
    for cell in code_cells(notebook):
        lines = cell.source.splitlines()
        assert len(lines) <= (30 if "definitions" in tags(cell) else 25), cell.source
        assert max(map(len, lines)) <= 100


def test_what_is_drawn_is_shown(notebook):
    for cell in code_cells(notebook):
        *before, _last = ast.parse(cell.source).body or [None]
        for statement in before:
            shown = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
            name = getattr(statement.value.func, "id", "") if shown else ""
            assert name not in {"table", "compact", "players"}, cell.source


def test_music_notebook_does_not_grow():
    assert len(code_cells(ROOT / "HW_04_music_gan.ipynb")) <= 150


def test_music_notebook_has_few_figures():
    outputs = [output for cell in code_cells(ROOT / "HW_04_music_gan.ipynb")
               for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) <= 35


def test_code_follows_words(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    explained = []
    for before, cell in itertools.pairwise(cells):
        if cell.cell_type == "code":
            explained.append(before.cell_type == "markdown")
    assert statistics.mean(explained) >= 0.8


def paragraphs(source):
    """Split markdown into paragraphs and items; tables are none."""
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[-*>|]|\d+\.) )", source)
    return [part for part in parts if not part.strip().startswith("|")]


def word_count(paragraph):
    """Words of a paragraph, where each formula is one."""
    text = re.sub(r"\$\$.*?\$\$", "X", paragraph, flags=re.S)
    text = re.sub(r"\$[^$]*\$", "X", text)
    return len(text.split())


def test_paragraphs_are_short(notebook):
    wordy = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            wordy += [text for text in paragraphs(cell.source) if word_count(text) > 90]
    assert not wordy


def test_music_notebook_has_few_words():
    cells = nbformat.read(ROOT / "HW_04_music_gan.ipynb", as_version=4).cells
    prose = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    prose, _references = prose.split("## 8. References")
    assert len(prose.split()) <= 7900


def test_theory_is_not_dense():
    cells = code_cells(ROOT / "HW_04_theory.ipynb")
    assert density(cell.source for cell in cells) <= MAX_DENSITY


def test_the_median_file_is_not_dense():
    found = []
    for path in NOTEBOOKS:
        found.append(density(cell.source for cell in code_cells(path)))
    for path in SCRIPTS:
        found.append(density([path.read_text(encoding="utf-8")]))
    assert statistics.median(found) <= MAX_DENSITY


def test_functions_are_short():
    for path in SCRIPTS:
        source = path.read_text(encoding="utf-8")
        code = lines_of_code(source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                own = code.intersection(range(node.lineno, node.end_lineno + 1))
                assert len(own) <= 32, f"{path.name}: {node.name}"


def test_notebook_defines_its_contract():
    gan = notebook_definitions.load("HW_04_music_gan")
    assert all(hasattr(gan, name) for name in ("Config", "train", "diagnose", "generate"))


def test_definitions_that_run_something_are_refused(tmp_path, monkeypatch):
    cell = nbformat.v4.new_code_cell("x = print('hello')", metadata={"tags": ["definitions"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "odd.ipynb")
    monkeypatch.setattr(notebook_definitions, "ROOT", tmp_path)
    with pytest.raises(SyntaxError, match=r"odd\.ipynb, cell 0.*line 1"):
        notebook_definitions.load("odd")


@pytest.mark.parametrize("source, defines", [
    ("try:\n    import a\nexcept ImportError:\n    why = 'no a'\n    raise ValueError(why)", True),
    ("try:\n    import a\nexcept ImportError:\n    a = None", False),
    ("try:\n    import a\nexcept ImportError:\n    print(1)\n    raise", False),
    ("try:\n    run()\nexcept ImportError:\n    raise", False),
    ("try:\n    import a\nfinally:\n    run()", False),
])
def test_an_import_may_say_why_it_failed_and_do_nothing_else(source, defines):
    statement, = ast.parse(source).body
    assert notebook_definitions.defines_only(statement) is defines


def import_cells(path):
    """The code of those cells that import and do nothing else."""
    sources = []
    for _, cell in notebook_definitions.cells_tagged(path, "definitions"):
        kinds = {type(statement) for statement in ast.parse(cell.source).body}
        if kinds <= {ast.Import, ast.ImportFrom, ast.Try}:
            sources.append(cell.source)
    return "\n".join(sources)


@pytest.mark.slow
def test_a_kernel_that_starts_elsewhere_says_where_to_start(notebook, tmp_path):
    """The theory notebook needs no other file, so that it runs from anywhere."""
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-I", "-c", import_cells(notebook)]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True)
    if "theory" in notebook.name:
        assert done.returncode == 0, done.stderr
        return
    *_, sentence = done.stderr.splitlines()
    assert re.fullmatch(r"ModuleNotFoundError: No module named 'Music' in \S*elsewhere: start the "
                        r"kernel in the folder of this notebook, .*", sentence)


def test_readme_has_two_commands_of_one_line():
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    run, test = commands
    assert all(path.name in run for path in NOTEBOOKS)
    assert "pytest" in test


def test_readme_names_every_file_at_the_top():
    for path in ROOT.iterdir():
        if path.suffix in (".ipynb", ".py", ".txt"):
            assert f"`{path.name}`" in README


def test_distances_in_the_readme_are_those_that_the_notebook_printed():
    caption = re.search(r"\*Rows from the top.*\*", README)[0]
    without_sections = re.sub(r"section \d\.\d+", "", caption)
    quoted = re.findall(r"\d+\.\d+", without_sections)
    assert len(quoted) == 6
    outputs = [output for cell in code_cells(ROOT / "HW_04_music_gan.ipynb")
               for output in cell.outputs]
    tables = [output.get("data", {}).get("text/markdown", "") for output in outputs]
    printed = re.findall(r"\d+\.\d+", " ".join(tables))
    assert not set(quoted) - set(printed)


def test_commands_in_the_texts_name_scripts_that_exist():
    texts = [README, *(path.read_text(encoding="utf-8") for path in ROOT.rglob("runs/**/*.md"))]
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        texts += [cell.source for cell in cells if cell.cell_type == "markdown"]
    named = {name for text in texts for name in re.findall(r"tests/[\w/]+\.py", text)}
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_runs_hold_what_the_notebook_wrote():
    runs = sorted((ROOT / "runs" / "live").glob("*/events*"))
    assert {path.parent.name for path in runs} == {"real", "plain", "modern", "recurrent",
                                                       "embedding"}
    assert all(re.fullmatch(r"events\.out\.tfevents\.\d\.\w+", path.name) for path in runs)
    files = [path for path in (ROOT / "runs").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 32e6


# ---------------------------------------------------------------- numbers in prose

NUMBER = re.compile(r"(?<![\w.,])(?:\d[\d,]*\d|\d)(?:\.\d+)?(?!\w)|(?<![\w.,])\.\d+")
# formulas, code, references, years, addresses of sections and links are no results
NO_RESULT = re.compile(r"\$\$.*?\$\$|\$[^$\n]*\$|`[^`]*`|\[\d+\]|\b(?:19|20)\d\d\b|arXiv \S+"
                       r"|\(#[^)]*\)|^#+ [\d.]+|\b[1-7]\.\d{1,2}\b(?!\d| dB| times|%)",
                       re.DOTALL | re.MULTILINE)
# numbers of the music notebook's prose that no output prints, and why
UNPRINTED = {
    "8,000": "clips that the assignment asks for",
}


def value_of(text):
    return float(text.replace(",", ""))


def printed_numbers(path):
    """Numbers in the outputs and in the code of a notebook."""
    texts = []
    for cell in code_cells(path):
        texts.append(cell.source)
        for output in cell.outputs:
            data = output.get("data", {})
            texts += [output.get("text", ""), data.get("text/markdown", ""),
                      data.get("text/plain", "")]
    return {value_of(number) for text in texts for number in NUMBER.findall(text)}


def is_printed(number, printed):
    """Whether a number of prose, which may be rounded or a percentage, is one of those."""
    value = value_of(number)
    digits = len(number.partition(".")[2])
    if value in printed:
        return True
    shares = [100 * known for known in printed if known <= 1]
    return any(round(known, digits) == value for known in (*printed, *shares))


def test_numbers_in_the_prose_are_printed():
    path = ROOT / "HW_04_music_gan.ipynb"
    printed = printed_numbers(path)
    missing = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            prose, *_references = cell.source.split("## 8. References")
            for number in NUMBER.findall(NO_RESULT.sub("", prose)):
                if not is_printed(number, printed):
                    missing[number] = cell.id
    assert set(missing) == set(UNPRINTED), missing


@pytest.mark.parametrize("number, known, found", [
    ("1.8", {1.81}, True), ("1.9", {1.81}, False), ("37", {0.367}, True),
    ("2,200", {2200.0}, True), (".44", {0.44}, True), ("12", {12.6}, False), ("185", {1.85}, False),
])
def test_a_number_is_printed_as_it_is_or_rounded(number, known, found):
    assert is_printed(number, known) is found
