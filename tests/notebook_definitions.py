"""Import the definitions of a notebook, without running anything else of it.

The notebooks are the only home of their code: tests, benchmarks and the scripts that record
evidence take it from there.
"""

import ast
import functools
import linecache
import sys
import types
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = (ast.Import, ast.ImportFrom)
STATEMENTS = (*IMPORTS, ast.FunctionDef, ast.ClassDef)
CONSTANTS = (ast.Constant, ast.Name, ast.Attribute, ast.Tuple, ast.List, ast.Set, ast.Dict,
             ast.BinOp, ast.UnaryOp, ast.Subscript,
             ast.operator, ast.unaryop, ast.expr_context)


def cells_tagged(path, tag):
    """Return `(index, cell)` of the code cells of a notebook that carry a tag."""
    found = []
    for index, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code" and tag in cell.metadata.get("tags", []):
            found.append((index, cell))
    return found


def imports_only(statement):
    """Whether a `try` imports, and where that fails only says why."""
    if not all(isinstance(part, IMPORTS) for part in statement.body):
        return False
    for handler in statement.handlers:
        *constants, last = handler.body
        if not isinstance(last, ast.Raise) or not all(map(defines_only, constants)):
            return False
    return not statement.orelse and not statement.finalbody


def defines_only(statement):
    """Whether a statement imports, defines, is a docstring or names literal constants."""
    if isinstance(statement, STATEMENTS):
        return True
    if isinstance(statement, ast.Try):
        return imports_only(statement)
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
        return all(isinstance(node, CONSTANTS) for node in ast.walk(statement.value))
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def label_of(path, index):
    """The name of a cell's code in tracebacks and in what measures coverage."""
    return f"{path.name}, cell {index}"


def _parse(source, label):
    """The syntax tree of a cell, which must only define."""
    tree = ast.parse(source, label)
    for statement in tree.body:
        if not defines_only(statement):
            kind = type(statement).__name__
            raise SyntaxError(f"{label}, line {statement.lineno}: a definitions cell runs {kind}")
    return tree


@functools.cache
def _load_file(path):
    """Import the definitions of the notebook at a path, once in a process."""
    trees = {}
    for index, cell in cells_tagged(path, "definitions"):
        label = label_of(path, index)
        trees[label] = _parse(cell.source, label)
        # tracebacks and inspect.getsource then show the cell's lines
        lines = cell.source.splitlines(True)
        linecache.cache[label] = (len(cell.source), None, lines, label)
    module = types.ModuleType(path.stem)
    sys.modules[path.stem] = module      # dataclasses and pickle look a module up by its name
    for label, tree in trees.items():
        exec(compile(tree, label, "exec"), module.__dict__)
    return module


def load(name):
    """Import the cells tagged `definitions` of a notebook as one module.

    Loading it again gives the same module, so that a process has one of each class and registry.

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
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return _load_file(ROOT / f"{name}.ipynb")
