"""Write the executed notebooks as pages that are read without Jupyter, and without a network.

    python tests/as_html.py [--out folder]

One HTML file for each notebook, in `data/pages` unless told otherwise. Formulas are MathML, which
browsers draw themselves; figures and players are inside; no script is left. Code that only defines
is folded, and a list of the sections stands at the head.
"""

import argparse
import copy
import re
import sys
from pathlib import Path

import bs4
import latex2mathml.converter
import nbformat
from jinja2 import pass_context
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import Music  # noqa: E402

NOTEBOOKS = ("HW_04_theory", "HW_04_music_gan")
# between dollars, of which one that is escaped is none; in a code span nothing is a formula
FORMULA = re.compile(r"(?P<code>```.*?```|`[^`\n]+`)|(?<!\\)\$\$(?P<shown>.+?)\$\$"
                     r"|(?<![\\$])\$(?P<inline>[^$\n]+?)(?<!\\)\$", re.DOTALL)
PUT_ASIDE = re.compile(r"FORMULA(\d+)X(?![^<>]*>)")     # but for those in the name of a heading
# delimiters that the converter does not know
DELIMITER = re.compile(r"\\[lr][vV]ert(?![A-Za-z])")
NAMES = {r"\lvert": "|", r"\rvert": "|", r"\lVert": r"\|", r"\rVert": r"\|"}
STYLE = """
body { max-width: 1150px; margin: 0 auto; padding: 0 1em; }
.jp-RenderedMarkdown, .jp-RenderedHTMLCommon { overflow-x: auto; }
.jp-RenderedHTMLCommon table { display: block; overflow-x: auto; max-width: 100%; margin-left: 0; }
.jp-RenderedHTML tr { display: flex; flex-wrap: wrap; }
img { max-width: 100%; height: auto; }
audio { width: 230px; }
pre { overflow-x: auto; }
math[display=block] { overflow-x: auto; overflow-y: hidden; max-width: 100%; }
details > summary { cursor: pointer; color: #555; font-family: monospace; padding: .2em 0; }
"""


def mathml(formula):
    """A formula, as found by `FORMULA`, in MathML."""
    tex = formula["shown"] or formula["inline"]
    tex = DELIMITER.sub(lambda found: NAMES[found[0]], tex)
    display = "block" if formula["shown"] else "inline"
    return latex2mathml.converter.convert(tex, display=display)


class Pages(HTMLExporter):
    """Notebooks as HTML, with formulas in MathML."""

    @pass_context
    def markdown2html(self, context, source):
        formulas = []

        def put_aside(formula):
            if formula["code"]:
                return formula["code"]
            formulas.append(mathml(formula))
            return f"FORMULA{len(formulas) - 1}X"      # which Markdown leaves alone

        page = super().markdown2html(context, FORMULA.sub(put_aside, source))
        return PUT_ASIDE.sub(lambda found: formulas[int(found[1])], page)


def fold_definitions(page):
    """Fold the code of cells that only define, under their first line."""
    for cell in page.select(".celltag_definitions .jp-Cell-inputWrapper"):
        first, *_ = cell.get_text().strip().splitlines()
        folded = page.new_tag("details")
        summary = page.new_tag("summary")
        summary.string = first
        cell.wrap(folded)
        folded.insert(0, summary)


def list_sections(page):
    """Links to the sections, to stand at the head of a page."""
    contents = page.new_tag("details", open="")
    summary = page.new_tag("summary")
    summary.string = "Contents"
    contents.append(summary)
    for heading in page.select("h2[id], h3[id]"):
        line = page.new_tag("div", style=f"margin-left: {heading.name[1]}em")
        link = page.new_tag("a", href=f"#{heading['id']}")
        parts = [part for part in heading.contents if part.name != "a"]
        link.extend(map(copy.copy, parts))
        line.append(link)
        contents.append(line)
    return contents


def as_page(path):
    """A notebook as one HTML page, `bs4.BeautifulSoup`, that needs nothing else."""
    notebook = nbformat.read(path, as_version=4)
    pages = Pages(exclude_input_prompt=True, exclude_output_prompt=True, embed_images=True)
    about = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    text, _ = pages.from_notebook_node(notebook, resources=about)
    page = bs4.BeautifulSoup(text, "html.parser")
    for script in page.select("script, link[rel=stylesheet]"):
        script.decompose()
    style = page.new_tag("style")
    style.string = STYLE
    page.head.append(style)
    fold_definitions(page)
    page.select_one("h1").insert_after(list_sections(page))
    return page


def main(words=None):
    title, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "pages",
                        help="folder of the pages")
    options = parser.parse_args(words)
    for name in NOTEBOOKS:
        path = options.out / f"{name}.html"
        with Music.atomic(path) as unfinished:
            unfinished.write_text(str(as_page(ROOT / f"{name}.ipynb")), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
