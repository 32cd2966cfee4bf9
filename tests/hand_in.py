"""Make the hand-in, `HW_04_<student number>.zip`, out of a clone without changes.

    python tests/hand_in.py 99999999 [--out folder]

The archive has one folder of its own name: everything that the last commit holds, both notebooks
as pages to read without Jupyter (`as_html.py`), and `history.bundle`, the history as one file,
since an archive drops it. `git clone history.bundle history` brings back `main` and every branch
that was merged into it, by name: where a clone does not have the branches, their names come from
the messages of the merges, their tips from the second parents. Needs git; works the same on Linux,
macOS and Windows.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import Music  # noqa: E402

MERGE = re.compile(r"Merge branch '([^']+)'$")
BUNDLE = "history.bundle"


class HandInError(Exception):
    """Why no hand-in can be made, and what to do."""


class Merge(NamedTuple):
    """A branch that was merged, and its last commit."""

    branch: str
    tip: str


def git(*words, folder=ROOT):
    """What git prints. Raises `HandInError` with git's own words where it fails."""
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    except FileNotFoundError as error:
        raise HandInError("git is not installed, or not on the path") from error
    if done.returncode:
        raise HandInError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout


def student_number(text):
    """Digits of a student number, those of other alphabets as 0 to 9."""
    if not text.isdecimal():
        raise HandInError(f"{text!r} is no student number: digits only")
    return "".join(str(int(digit)) for digit in text)


def check_clone(repository):
    """Raise `HandInError` unless the last commit is all that there is, with its history."""
    try:
        git("rev-parse", "--verify", "HEAD", folder=repository)
    except HandInError as error:
        raise HandInError(f"{repository}: not a clone of the project ({error})") from error
    changed = git("status", "--porcelain", "--untracked-files=no", folder=repository)
    if changed:
        raise HandInError(f"changes that no commit holds, commit or restore them:\n{changed}")
    if git("rev-parse", "--is-shallow-repository", folder=repository).strip() == "true":
        raise HandInError("the clone holds a part of the history: git fetch --unshallow")


def merges(repository):
    """Every merge into the branch that is checked out, newest first."""
    log = git("log", "--first-parent", "--merges", "--format=%P%x09%s", folder=repository)
    found = []
    for line in log.splitlines():
        parents, subject = line.split("\t", 1)
        named = MERGE.match(subject)
        if named:
            _into, tip, *_ = parents.split()
            found.append(Merge(named[1], tip))
    return found


def branches(repository):
    """Tips of the merged branches by name.

    A name that was used again belongs to its newest tip; older ones follow as `name-2` and so on.
    """
    found = {}
    times = {}
    for merge in merges(repository):
        times[merge.branch] = times.get(merge.branch, 0) + 1
        number = times[merge.branch]
        name = merge.branch if number == 1 else f"{merge.branch}-{number}"
        while name in found:        # another branch has that very name
            name += "-"
        found[name] = merge.tip
    found.pop("main", None)         # another clone's main that was merged is no branch
    return found


def bundle(repository, path):
    """Write a file that clones to `main` and every merged branch; returns the branches."""
    found = branches(repository)
    head = git("rev-parse", "HEAD", folder=repository).strip()
    objects = git("rev-parse", "--path-format=absolute", "--git-path", "objects",
                  folder=repository).strip()
    with tempfile.TemporaryDirectory() as folder:
        git("init", "--quiet", "--bare", "--initial-branch=main", folder, folder=folder)
        # the same commits under other names, without a copy of them
        (Path(folder) / "objects" / "info" / "alternates").write_text(f"{objects}\n",
                                                                      encoding="utf-8")
        git("update-ref", "refs/heads/main", head, folder=folder)
        for name, tip in found.items():
            git("update-ref", f"refs/heads/{name}", tip, folder=folder)
        git("bundle", "create", "--quiet", str(Path(path).resolve()), "HEAD", "--branches",
            folder=folder)
    return found


def check_executed(archive, top):
    """Raise `HandInError` where a notebook of an archive was not run, or a part is missing."""
    import nbformat
    names = archive.namelist()
    for needed in ("HW_04_theory.ipynb", "HW_04_music_gan.ipynb", "Music.py", "README.md",
                   "requirements.txt", "runs/", "tests/"):
        if f"{top}/{needed}" not in names:
            raise HandInError(f"{needed} is missing in the last commit")
        if needed.endswith(".ipynb"):
            text = archive.read(f"{top}/{needed}").decode("utf-8")
            cells = nbformat.reads(text, as_version=4).cells
            code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
            if any(cell.execution_count is None for cell in code):
                raise HandInError(f"{needed} was not run whole: run it, and commit it")


def add_pages(archive, top, repository):
    """Put the notebooks of a clone into an archive, as pages beside them."""
    import as_html
    for name in as_html.NOTEBOOKS:
        page = as_html.as_page(Path(repository) / f"{name}.ipynb")
        archive.writestr(f"{top}/{name}.html", str(page), zipfile.ZIP_DEFLATED)


def make(number, out=ROOT, repository=ROOT):
    """Write the archive of a student into a folder; returns its path and the branches in it.

    Raises
    ------
    HandInError
        If the number is none, the clone is changed, shallow or not one, or a part is missing.
    """
    top = f"HW_04_{student_number(number)}"
    check_clone(repository)
    path = Path(out).resolve() / f"{top}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Music.atomic(path) as unfinished:
        history = Path(folder) / BUNDLE
        found = bundle(repository, history)
        git("archive", "--format=zip", f"--prefix={top}/", f"--output={unfinished.resolve()}",
            "HEAD", folder=repository)
        with zipfile.ZipFile(unfinished, "a") as archive:
            archive.write(history, f"{top}/{BUNDLE}")
            check_executed(archive, top)
            add_pages(archive, top, repository)
    return path, found


def main():
    title, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("number", help="student number")
    parser.add_argument("--out", type=Path, default=ROOT)
    options = parser.parse_args()
    try:
        path, found = make(options.number, options.out)
    except HandInError as error:
        sys.exit(f"no hand-in: {error}")
    megabytes = path.stat().st_size / 1e6
    print(f"{path}: {megabytes:.1f} MB, main and {len(found)} merged branches in {BUNDLE}")


if __name__ == "__main__":
    main()
