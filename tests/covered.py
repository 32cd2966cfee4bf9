"""How much of the code a test run has run: of `Music.py`, and of what each notebook defines.

    python -m coverage run --rcfile=.ci/coverage.ini -m pytest -m "" tests
    python tests/covered.py

The first line measures and prints the shares (what runs in other processes is not counted), the
second lists the lines that were not run.
"""

from pathlib import Path
from typing import NamedTuple

import coverage
from coverage.parser import PythonParser

from notebook_definitions import ROOT, cells_tagged, label_of

WANTED = {"Music.py": 95, "HW_04_theory.ipynb": 90, "HW_04_music_gan.ipynb": 90}      # % of lines


class Covered(NamedTuple):
    """Lines of code of a file, and those of them that were not run, by source."""

    lines: int
    missed: dict

    @property
    def percent(self):
        missing = sum(map(len, self.missed.values()))
        return 100 * (1 - missing / self.lines)


def statements(source):
    """Numbers of the lines at which a statement begins."""
    parser = PythonParser(text=source)
    parser.parse_source()
    return parser.statements


def sources_of(path):
    """The code of a module, or of the cells of a notebook that define, by name."""
    if path.suffix == ".ipynb":
        return {label_of(path, index): cell.source
                for index, cell in cells_tagged(path, "definitions")}
    return {path.name: path.read_text(encoding="utf-8")}


def covered(path, lines_run):
    """What of a file was run: `lines_run` are the numbers of lines by the name of their source."""
    total = 0
    missed = {}
    for name, source in sources_of(path).items():
        of_source = statements(source)
        total += len(of_source)
        missing = of_source - lines_run.get(name, set())
        if missing:
            missed[name] = sorted(missing)
    return Covered(total, missed)


def lines_run():
    """Numbers of the lines that were run until now by the name of their source, or None.

    None where nothing measures.
    """
    measured = coverage.Coverage.current()
    if measured is None:
        return None
    return lines_of(measured.get_data())


def lines_of(data):
    """Numbers of the lines that were run by the name of their source, out of coverage's data."""
    found = {}
    for file in data.measured_files():
        found.setdefault(Path(file).name, set()).update(data.lines(file))
    return found


def report(found):
    """Sentences on the files whose coverage is wanted."""
    sentences = []
    for name, wanted in WANTED.items():
        share = covered(ROOT / name, found)
        what = name if name.endswith(".py") else f"definitions of {name}"
        verdict = "" if share.percent >= wanted else f", below {wanted} %"
        sentences.append(f"{what}: {share.percent:.1f} % of {share.lines:,} lines run{verdict}")
    return sentences


def main():
    data = coverage.CoverageData(str(ROOT / "data" / ".coverage"))
    data.read()
    found = lines_of(data)
    for name in WANTED:
        for source, lines in covered(ROOT / name, found).missed.items():
            print(f"{source}:", *lines)
    print(*report(found), sep="\n")


if __name__ == "__main__":
    main()
