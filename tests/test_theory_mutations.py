"""Would the checks of the theory notebook notice a wrong formula?

Every constant, sign and operator of the closed forms is altered, one at a time: in the functions
named below (the definitions), and in every assignment to a name that starts with `closed` (the
check cells). Each altered formula must make a check fail, and each check must catch one.
"""

import ast
import contextlib
import io
import re
import types
import warnings

import nbformat
import pytest

from helpers import ROOT

PATH = ROOT / "HW_04_theory.ipynb"
CELLS = [c for c in nbformat.read(PATH, as_version=4).cells if c.cell_type == "code"]
CHECKS = [i for i, c in enumerate(CELLS) if "check" in c.metadata.get("tags", [])]
CLOSED_FORMS = {
    "kl_divergence", "js_divergence", "total_variation", "bhattacharyya", "optimal_discriminator",
    "gan_value", "js_bounds", "pack_law", "packed_js_bounds", "missing_modes_js",
    "packed_gradient", "minibatch_features", "play", "quadratic_radius", "spectral_radius",
    "step_limit", "generator_gradient", "noised_laws", "noised_js_gradient", "noised_js_bounds",
    "wasserstein_1", "gaussian_w1", "monotone_plan"}
SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
# alterations that leave the formula as it was, or only change how finely a quadrature is cut
EQUIVALENT = {
    "js_bounds: 0.0 -> 0.1", "js_bounds: 1.0 -> 1.3", "step_limit: 0 -> 0.1",   # clipped rounding
    "js_bounds: 1 - tv -> 1 + tv",                                   # h(t) = h(1 - t)
    "spectral_radius: 1 + beta + 1j * eta -> 1 + beta - 1j * eta",   # complex conjugate
    "noised_laws: 10 -> 12.1",
    "noised_laws: 40 + math.ceil((high - low) / sigma) -> 40 - math.ceil((high - low) / sigma)",
    "noised_laws: (high - low) / sigma -> (high - low) * sigma",
    "noised_laws: high - low -> high + low"}


def _tags(cell):
    return cell.metadata.get("tags", [])


def _skipped(node):
    """Validation and defaults are not formulas."""
    raises = isinstance(node, ast.If) and any(isinstance(n, ast.Raise) for n in node.body)
    return raises or isinstance(node, (ast.Raise, ast.arguments, ast.Slice))


def _sites(node):
    """Yield the nodes that can be altered, in a fixed order."""
    if _skipped(node):
        return
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield node
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield node
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node
    for field, value in ast.iter_fields(node):
        if isinstance(node, ast.Subscript) and field == "slice":
            continue                                     # an index is not a formula
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _sites(child)


def _alter(node):
    """Alter one node in place: a constant by a fifth, an operator to its opposite, a sign."""
    if isinstance(node, ast.Constant):
        node.value = node.value * 1.2 + 0.1
    elif isinstance(node, ast.BinOp):
        node.op = SWAPS[type(node.op)]()
    else:
        node.op = ast.UAdd()


def _formulas(cell):
    """Return the function that lists, for a parsed cell, the nodes that are closed forms."""
    def closed(target):
        return any(isinstance(n, ast.Name) and n.id.startswith("closed") for n in ast.walk(target))

    def find(tree):
        if "definitions" in _tags(cell):
            return [n for n in tree.body
                    if isinstance(n, ast.FunctionDef) and n.name in CLOSED_FORMS]
        return ([n.value for n in ast.walk(tree)
                 if isinstance(n, ast.Assign) and any(map(closed, n.targets))]
                + [n.iter for n in ast.walk(tree) if isinstance(n, ast.For) and closed(n.target)])
    return find


def mutants():
    """List `(cell, site)` for every possible alteration."""
    found = []
    for i, cell in enumerate(CELLS):
        if {"definitions", "check"} & set(_tags(cell)):
            tree = ast.parse(cell.source)
            count = sum(len(list(_sites(n))) for n in _formulas(cell)(tree))
            found += [(i, k) for k in range(count)]
    return found


def mutate(i, k):
    """Return the altered tree of cell i, the name of the formula and words for the alteration."""
    tree = ast.parse(CELLS[i].source)
    owners = [(owner, node) for owner in _formulas(CELLS[i])(tree) for node in _sites(owner)]
    owner, node = owners[k]
    before = ast.unparse(node)
    _alter(node)
    name = getattr(owner, "name", "closed")
    return tree, name, f"{name}: {before} -> {ast.unparse(node)}"


def names_used(source):
    return set(re.findall(r"[A-Za-z_]\w*", source))


def users():
    """Map each function of the definitions to the check cells that reach it, through others."""
    bodies = {n.name: names_used(ast.unparse(n)) for c in CELLS if "definitions" in _tags(c)
              for n in ast.parse(c.source).body if isinstance(n, ast.FunctionDef)}
    reach = {}
    for i in CHECKS:
        seen, todo = set(), names_used(CELLS[i].source) & set(bodies)
        while todo:
            name = todo.pop()
            seen.add(name)
            todo |= (bodies[name] & set(bodies)) - seen
        for name in seen:
            reach.setdefault(name, []).append(i)
    return reach


def run(code, space):
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, space)


def fails(i, space, code=None):
    """Whether check cell i fails in a copy of the name space, by its assertion or otherwise."""
    try:
        run(code or compile(CELLS[i].source, f"<check {i}>", "exec"), dict(space))
    except Exception:
        return True
    return False


@pytest.fixture(scope="module")
def space():
    space = {"__name__": "theory"}
    for cell in CELLS:
        if {"definitions", "parameters"} & set(_tags(cell)):
            run(compile(cell.source, "<definitions>", "exec"), space)
    space["torch"].set_default_dtype(space["torch"].float64)
    yield space
    space["torch"].set_default_dtype(space["torch"].float32)


def rebind(space, function, tree):
    """Copy the name space with one altered function, which the other functions see too."""
    altered = dict(space)
    source = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    module = ast.Module([source], [])
    for name, value in space.items():
        if isinstance(value, types.FunctionType) and value.__globals__ is space:
            altered[name] = types.FunctionType(value.__code__, altered, name, value.__defaults__,
                                               value.__closure__)
    run(compile(module, "<altered>", "exec"), altered)
    return altered


def killers(i, k, space, reach, first):
    """Yield the checks that fail on an alteration, trying those in `first` before others."""
    tree, name, _ = mutate(i, k)
    if i in CHECKS:
        if fails(i, space, compile(tree, f"<check {i}>", "exec")):
            yield i
        return
    altered = rebind(space, name, tree)
    yield from (c for c in sorted(reach.get(name, []), key=lambda c: c not in first)
                if fails(c, altered))


@pytest.mark.slow
def test_checks_pass_alone_and_every_altered_formula_is_caught(space):
    assert not [CELLS[i].source for i in CHECKS if fails(i, space)]
    reach, idle, survivors = users(), set(CHECKS), []
    for i, k in mutants():
        _, _, words = mutate(i, k)
        if words not in EQUIVALENT:
            killer = next(killers(i, k, space, reach, idle), None)
            idle.discard(killer)
            survivors += [words] if killer is None else []
    for i, k in mutants():                               # checks that others forestalled
        if idle & set(reach.get(mutate(i, k)[1], [])):
            idle -= set(killers(i, k, space, reach, idle))
    assert not survivors
    assert not [CELLS[i].source for i in idle]
