"""Import the definitions of a notebook, without running anything else of it.

The notebooks are the only home of their code: tests, benchmarks and the scripts that record
evidence take it from there.
"""

import ast
import linecache
import sys
import types
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
STATEMENTS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
CONSTANTS = (ast.Constant, ast.Name, ast.Attribute, ast.Tuple, ast.List, ast.Set, ast.Dict,
             ast.BinOp, ast.UnaryOp, ast.Subscript, ast.operator, ast.unaryop, ast.expr_context)


def cells_tagged(path, tag):
    """Return `(index, cell)` of the code cells of a notebook that carry a tag."""
    cells = nbformat.read(path, as_version=4).cells
    return [(i, cell) for i, cell in enumerate(cells)
            if cell.cell_type == "code" and tag in cell.metadata.get("tags", [])]


def _defines_only(statement):
    if isinstance(statement, STATEMENTS):
        return True
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
        return all(isinstance(node, CONSTANTS) for node in ast.walk(statement.value))
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def load(name):
    """Import the cells tagged `definitions` of a notebook as one module.

    Parameters
    ----------
    name : str
        Notebook at the top of the project, without its suffix.

    Returns
    -------
    types.ModuleType

    Raises
    ------
    SyntaxError
        If such a cell holds a statement that does more than define.
    """
    path = ROOT / f"{name}.ipynb"
    module = types.ModuleType(name)
    sys.modules[name] = module
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    for index, cell in cells_tagged(path, "definitions"):
        label = f"<{path.name} cell {index}>"
        tree = ast.parse(cell.source, label)
        for statement in tree.body:
            if not _defines_only(statement):
                raise SyntaxError(f"{label}, line {statement.lineno}: "
                                  f"a definitions cell runs {type(statement).__name__}")
        # tracebacks and inspect.getsource then show the cell's lines
        linecache.cache[label] = (len(cell.source), None, cell.source.splitlines(True), label)
        exec(compile(tree, label, "exec"), module.__dict__)
    return module
