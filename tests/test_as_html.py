"""The pages: nothing but the page is needed, and formulas, players and figures are in it."""

import re

import as_html
import nbformat
import pytest

from helpers import ROOT


@pytest.fixture(scope="module", params=as_html.NOTEBOOKS)
def page(request):
    path = ROOT / f"{request.param}.ipynb"
    return nbformat.read(path, as_version=4), as_html.as_page(path)


def addresses(page):
    """What a browser would fetch to show a page."""
    found = []
    for tag in page.select("[src], link[href], [data]"):
        found.append(tag.get("src") or tag.get("href") or tag.get("data"))
    for style in page.select("style"):
        found += re.findall(r"url\(\s*[\"']?([^\"')]+)", style.get_text())
        found += re.findall(r"@import\s+\S+", style.get_text())
    return found


@pytest.mark.slow
def test_a_page_fetches_nothing(page):
    _, page = page
    assert not page.select("script")
    assert not [address for address in addresses(page) if not address.startswith("data:")]


@pytest.mark.slow
def test_a_page_holds_every_figure_player_and_formula(page):
    notebook, page = page
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    players = sum("".join(output.get("data", {}).get("text/html", "")).count("<audio")
                  for output in outputs)
    assert len(page.select("img")) >= pictures > 0
    assert len(page.select("audio")) == players
    formulas = 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = as_html.FORMULA.finditer(cell.source)
            formulas += sum(formula["code"] is None for formula in found)
    assert len(page.select("math")) >= formulas > 0
    left = [math.get_text() for math in page.select("math") if "\\" in math.get_text()]
    assert not [text for text in left if re.search(r"\\[a-zA-Z]{2}", text)]
    assert not re.search(r"FORMULA\d+X", page.get_text())


@pytest.mark.slow
def test_definitions_are_folded_and_sections_listed(page):
    notebook, page = page
    defining = [cell for cell in notebook.cells
                if "definitions" in cell.metadata.get("tags", [])]
    assert len(page.select(".celltag_definitions details")) == len(defining)
    ids = {tag["id"] for tag in page.select("[id]")}
    links = page.select("details > div > a")
    assert len(links) > 10
    for link in links:
        assert link["href"][1:] in ids
        assert '"' not in link.get_text()


@pytest.mark.parametrize("source, formulas", [
    ("costs $3$ and `$x$`", ["3"]),
    (r"\$5 and $a_b*c*d$", ["a_b*c*d"]),
    ("$$x\n=y$$ then $z$", ["x\n=y", "z"]),
    ("```\n$no$\n```", []),
])
def test_formulas_are_told_from_dollars_and_code(source, formulas):
    found = [match["shown"] or match["inline"] for match in as_html.FORMULA.finditer(source)
             if not match["code"]]
    assert found == formulas


def test_pages_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(as_html, "as_page", lambda path: path.stem)
    as_html.main(["--out", str(tmp_path)])
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{name}.html": name for name in as_html.NOTEBOOKS}
