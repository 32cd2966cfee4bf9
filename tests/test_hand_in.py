"""The hand-in: what is in the archive, that its history clones, and what is refused."""

import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest

import hand_in
from helpers import ROOT

PERSIAN = "تمرین چهارم"
PYTHON = ".venv/bin/python "
NOTEBOOKS = ("HW_04_theory.ipynb", "HW_04_music_gan.ipynb")
PAGES = {"HW_04_theory.html", "HW_04_music_gan.html"}


def git(folder, *words):
    author = ("-c", "user.name=student", "-c", "user.email=student@example.org",
              "-c", "commit.gpgsign=false")
    return hand_in.git(*author, *words, folder=folder)


def notebook(executed=True):
    cell = nbformat.v4.new_code_cell("print(1)", execution_count=1 if executed else None)
    title = nbformat.v4.new_markdown_cell("# A title")
    return nbformat.writes(nbformat.v4.new_notebook(cells=[title, cell]))


def commit(folder, name, text):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    git(folder, "add", name)
    git(folder, "commit", "--quiet", "-m", f"Write {name}")


def merge(folder, branch, name):
    """Commit a file on a branch, merge it, and forget the branch."""
    git(folder, "checkout", "--quiet", "-b", branch)
    commit(folder, name, branch)
    git(folder, "checkout", "--quiet", "main")
    git(folder, "merge", "--quiet", "--no-ff", "-m", f"Merge branch '{branch}'", branch)
    git(folder, "branch", "--quiet", "-D", branch)


@pytest.fixture
def small(tmp_path):
    """A repository with all parts of a hand-in and three merges, two of one name."""
    folder = tmp_path / "small"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    for name in NOTEBOOKS:
        commit(folder, name, notebook())
    for name in ("Music.py", "README.md", "requirements.txt", "runs/summary", "tests/test.py"):
        commit(folder, name, name)
    merge(folder, "sound", "first")
    merge(folder, "theory", "second")
    merge(folder, "sound", "third")
    return folder


def cloned(archive, folder):
    """Unpack an archive, clone its history: the top folder and the clone."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    top, = folder.iterdir()
    clone = folder / "history"
    git(folder, "clone", "--quiet", str(top / hand_in.BUNDLE), str(clone))
    return top, clone


def remote_branches(clone):
    names = git(clone, "for-each-ref", "--format=%(refname:lstrip=3)", "refs/remotes").split()
    return set(names) - {"HEAD"}


def test_the_history_clones_with_every_merged_branch_by_name(small, tmp_path):
    path, _found = hand_in.make("99", tmp_path / PERSIAN, small)
    top, clone = cloned(path, tmp_path / "un packed")
    assert top.name == "HW_04_99"
    assert remote_branches(clone) == {"main", "sound", "sound-2", "theory"}
    assert git(clone, "show", "origin/sound:third") == "sound"
    with pytest.raises(hand_in.HandInError):
        git(clone, "show", "origin/sound-2:third")
    assert git(clone, "rev-parse", "HEAD") == git(small, "rev-parse", "HEAD")


def test_the_archive_holds_the_last_commit_and_nothing_else(small, tmp_path):
    (small / "data").mkdir()
    (small / "data" / "song.wav").write_bytes(b"sound")
    path, _found = hand_in.make("99", tmp_path, small)
    with zipfile.ZipFile(path) as packed:
        files = {name.removeprefix("HW_04_99/") for name in packed.namelist()}
    tracked = set(git(small, "ls-files").split())
    folders = {"", "runs/", "tests/"}
    assert files - folders == tracked | {hand_in.BUNDLE, *PAGES}


def test_the_archive_holds_the_notebooks_as_pages(small, tmp_path):
    path, _found = hand_in.make("99", tmp_path, small)
    with zipfile.ZipFile(path) as packed:
        for name in PAGES:
            page = packed.read(f"HW_04_99/{name}").decode("utf-8")
            assert "A title" in page
            assert "<script" not in page


def test_a_number_in_persian_digits_is_the_same_number(small, tmp_path):
    path, _found = hand_in.make("۹۸۱۰۱", tmp_path, small)
    assert path.name == "HW_04_98101.zip"


@pytest.mark.parametrize("number", ["", "abc", "12 3", "-5", "../5"])
def test_what_is_no_number_is_refused(number, small, tmp_path):
    with pytest.raises(hand_in.HandInError, match="student number"):
        hand_in.make(number, tmp_path, small)


def test_changes_without_a_commit_are_refused_and_nothing_is_written(small, tmp_path):
    (small / "Music.py").write_text("changed", encoding="utf-8")
    out = tmp_path / "out"
    with pytest.raises(hand_in.HandInError, match=r"Music\.py"):
        hand_in.make("99", out, small)
    assert not out.exists()


def test_a_notebook_that_was_not_run_is_refused_and_nothing_is_written(small, tmp_path):
    commit(small, NOTEBOOKS[0], notebook(executed=False))
    out = tmp_path / "out"
    with pytest.raises(hand_in.HandInError, match=NOTEBOOKS[0]):
        hand_in.make("99", out, small)
    assert list(out.iterdir()) == []


def test_a_missing_part_is_named(small, tmp_path):
    git(small, "rm", "--quiet", "requirements.txt")
    git(small, "commit", "--quiet", "-m", "Lose a part")
    with pytest.raises(hand_in.HandInError, match=r"requirements\.txt"):
        hand_in.make("99", tmp_path, small)


def test_a_part_of_the_history_is_refused(small, tmp_path):
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", small.as_uri(), str(shallow))
    with pytest.raises(hand_in.HandInError, match="unshallow"):
        hand_in.make("99", tmp_path, shallow)


def test_a_folder_without_history_is_refused(tmp_path):
    with pytest.raises(hand_in.HandInError, match="not a clone"):
        hand_in.make("99", tmp_path / "out", tmp_path)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """This very project's, by the README's command, at a path with spaces and Persian letters."""
    try:
        hand_in.check_clone(ROOT)
    except hand_in.HandInError as error:
        if "changes" not in str(error):     # those are not cloned
            pytest.skip(f"no hand-in from here: {error}")
    folder = tmp_path_factory.mktemp("hand in") / PERSIAN
    clone = folder / "clone"
    git(ROOT, "clone", "--quiet", str(ROOT), str(clone))
    readme = (clone / "README.md").read_text(encoding="utf-8")
    line, = [line for line in readme.splitlines() if "hand_in.py" in line]
    command = [sys.executable, *line.removeprefix(PYTHON).split(), "--out", str(folder)]
    subprocess.run(command, cwd=clone, check=True)
    found = hand_in.branches(clone)
    shutil.rmtree(clone)
    top, history = cloned(folder / "HW_04_99999999.zip", folder / "unpacked")
    return top, history, found


def test_the_project_clones_with_every_merged_branch(ours):
    _top, history, found = ours
    assert remote_branches(history) == {"main", *found}
    assert len(found) >= 60
    for name, tip in found.items():
        assert git(history, "rev-parse", f"origin/{name}").strip() == tip


def test_the_unpacked_hand_in_holds_all_parts_but_no_sound_and_no_checkpoint(ours):
    top, _history, _found = ours
    for name in ("HW_04_music_gan.ipynb", "HW_04_theory.ipynb", "Music.py", "requirements.txt",
                 "README.md", "tests/test_music_gan.py", "tests/evidence/common.py"):
        assert (top / name).is_file()
    assert list((top / "runs" / "live" / "modern").glob("events*"))
    assert {path.name for path in top.iterdir()} >= PAGES
    unwanted = {".flac", ".mp3", ".ogg", ".opus", ".wav", ".pt", ".npy"}
    assert not [path for path in top.rglob("*") if path.suffix in unwanted]
    assert not (top / "data").exists()


def test_the_unpacked_hand_in_passes_tests_of_its_own(ours):
    top, _history, _found = ours
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
               "tests/test_music_contract.py", "tests/test_repository.py", "-k",
               "contract or card or executed or first"]
    done = subprocess.run(command, cwd=top, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
