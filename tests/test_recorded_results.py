"""The notebook's cells about recorded trainings: run here, they show what is committed."""

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

from helpers import ROOT, run_cell
from notebook_definitions import load

gan = load("HW_04_music_gan")
# of trainings that no file keeps
LIVE = ("plain_run", "modern_run", "plain_codes", "sounds", "judges.balance")


def recorded_cells():
    """The cells that run, about recorded trainings, in the notebook's order."""
    cells = nbformat.read(ROOT / "HW_04_music_gan.ipynb", as_version=4).cells
    heading = ""
    found = []
    for cell in cells:
        if cell.cell_type == "markdown" and "## " in cell.source:
            heading = cell.source
        runs = cell.cell_type == "code" and "definitions" not in cell.metadata.get("tags", [])
        recorded = heading.startswith(("### 3.10", "### 4.0", "## 5", "### 5"))
        if runs and recorded and not any(name in cell.source for name in LIVE):
            found.append(cell)
    return found


def tables_of(outputs):
    """The tables among committed outputs, as text."""
    return [output.data["text/markdown"] for output in outputs
            if "text/markdown" in output.get("data", {})]


@pytest.mark.slow
def test_recorded_results_are_those_of_the_records():
    matplotlib.use("Agg")
    shown = []
    namespace = {**vars(gan), "display": shown.append, "recorded": ROOT / "runs" / "recorded",
                 "names": list("abcdefghi")}
    cells = recorded_cells()
    assert len(cells) > 8
    for cell in cells:
        shown.clear()
        run_cell(cell.source, namespace)
        tables = [one.data for one in shown if isinstance(getattr(one, "data", None), str)]
        assert tables == tables_of(cell.outputs)
    plt.close("all")


def test_no_recorded_distance_is_missing():
    paths = sorted((ROOT / "runs" / "recorded" / "failures").glob("*.npz"))
    for path in paths:
        history = gan.read_recorded(path)
        _steps, distance = history.series("quality/frechet")
        assert len(distance) >= 5 or not np.isfinite(distance).all(), path.name
