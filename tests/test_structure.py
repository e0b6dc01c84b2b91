"""The layout of the source: layers, sizes of files and signatures, words of its own time."""

import ast
import re
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("lcjax", "train", "benchmarks")
COMMANDS = ("distill", "evaluate", "image", "language", "sentiment")
# From the lowest to the highest; a module imports from its own package and from lower ones.
# "" holds the modules directly in the package, "commands" what `python -m train.NAME` runs.
LAYERS = {
    "lcjax": (
        "",
        "tree",
        "validation",
        "plots",
        "algebra",
        "nn",
        "structure",
        "calibration",
        "surgery",
        "planning",
        "optim",
        "transform.ir",
        "transform.params",
        "transform.analysis",
        "transform.matching",
        "transform.lowering",
        "transform.observing",
        "transform",
        "nnx",
        "linen",
        "eqx",
        "io",
        "stablehlo",
        "models",
        "interop",
        "folder",
        "cli",
    ),
    "train": (
        "",
        "runtime",
        "models",
        "config",
        "data",
        "engine",
        "tasks",
        "runs",
        "generation",
        "protocols",
        "examples",
        "commands",
    ),
}
# Names that the API had before 0.1.0. Code that reads old checkpoints may name old *values*.
RETIRED = {
    "collapsing": r"\bcollapsing\(|lcjax\.collapsing\b",
    "shrink_linearity_gap": r"shrink_linearity_gap",
    "reselect": r"\breselect\b",
    "RunFit": r"\bRunFit\b",
    "threshold": r"\bthreshold=|--threshold\b",
    "fit moments": r"fit=[\"']moments|--fit moments\b|`moments`",
    "protocol": r"--protocol[ =](natural|reference)\b|protocol=[\"'](natural|reference)\b",
    "abstract_compact": r"abstract_compact",
    "model_from": r"\bmodel_from\b",
    "find_source": r"\bfind_source\b",
    "Bert": r"\bmodels\.Bert\b|\bimport Bert\b|\bBert\(",
    "gated": r"\bgated=|--gated\b",
    "weights beside": r"weights=[\"'](inside|beside)|--weights[ =](inside|beside)\b",
    "load_safetensors": r"load_safetensors\([^)]*\b(fresh|skip)=",
    "held_r2": r"\bheld_r2\b",
    "function's methods": r"\bf\.(collapse|calibrate|sites|explain)\(",
    "report's fields": r"\breport\.(kept|new|dropped|factors)\b",
    "plan's fields": r"\b[pP]lan\.(chosen|met|refused|front|draw)\b",
    "pays": r"\.pays\b",
}


def _modules(top: str) -> dict[str, Path]:
    """Returns {dotted name: file}; a package stands for its __init__.py."""
    found = {}
    for path in sorted((ROOT / top).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def _nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def _lines() -> list[tuple[str, str]]:
    """Returns (place, line) of every line of Python in the repository and of README.md."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "README.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    here = Path(__file__).relative_to(ROOT).as_posix()
    return [
        (f"{file}:{number}", line.strip())
        for file in listed
        if (ROOT / file).is_file() and file != here
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1)
    ]


def _imports(module: str, modules: dict[str, Path]) -> set[str]:
    """Returns the modules in `modules` that one imports, at its top or later."""
    pairs = [pair for node in _nodes(modules[module]) for pair in _imported(node)]
    paths = [(source, f"{source}.{name}".lstrip(".")) for source, name in pairs]
    return {path if path in modules else source for source, path in paths} & modules.keys()


def _layer(module: str, is_package: bool) -> int:
    top, *parts = module.split(".")
    if top == "train" and len(parts) == 1 and parts[0] in COMMANDS:
        return LAYERS[top].index("commands")
    parts = parts if is_package else parts[:-1]
    while ".".join(parts) not in LAYERS[top]:
        assert parts, f"{module} is in no layer"
        parts = parts[:-1]
    return LAYERS[top].index(".".join(parts))


@pytest.mark.parametrize("top", LAYERS)
def test_modules_import_downward_only(top):
    modules = _modules(top)
    layer = {name: _layer(name, path.name == "__init__.py") for name, path in modules.items()}
    layer[top] = len(LAYERS[top])  # the package exports what is below it; nothing imports it
    upward = [
        f"{module} imports {imported}"
        for module in modules
        for imported in _imports(module, modules)
        if layer[imported] > layer[module]
    ]
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize("lower, higher", [*pairwise(TOPS), ("lcjax", "benchmarks")])
def test_top_packages_import_downward_only(lower, higher):
    modules = _modules(lower) | _modules(higher)
    crossing = {
        f"{module} imports {imported}"
        for module in _modules(lower)
        for imported in _imports(module, modules)
        if imported.split(".")[0] == higher
    }
    assert not crossing, "\n".join(crossing)


@pytest.mark.parametrize("top", TOPS)
def test_modules_form_no_cycle(top):
    modules = _modules(top)
    left = {module: _imports(module, modules) - {module} for module in modules}
    while left:
        free = {module for module, imported in left.items() if not imported & left.keys()}
        assert free, f"the import cycle is among {sorted(left)}"
        left = {module: imported for module, imported in left.items() if module not in free}


@pytest.mark.parametrize("top", (*TOPS, "tests"))
def test_own_imports_exist(top):
    """Also those of modules that are imported only where a package such as torch is installed."""
    known = {name: path for each in (*TOPS, "tests") for name, path in _modules(each).items()}
    missing = [
        f"{module}: {source}.{name}"
        for module, path in _modules(top).items()
        for node in _nodes(path)
        for source, name in _imported(node)
        if source.split(".")[0] in (*TOPS, "tests")
        and f"{source}.{name}" not in known
        and name not in _defined(known.get(source))
    ]
    assert missing == []


def _imported(node: ast.AST) -> list[tuple[str, str]]:
    """Returns (module, name) of what a statement imports: ("a", "b") for `import a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name.rpartition(".")[::2] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.module and node.level == 0, f"relative import: {ast.unparse(node)}"
        return [(node.module, alias.name) for alias in node.names]
    return []


@cache
def _defined(path: Path | None) -> set[str]:
    """Returns the names that a module defines or imports, wherever in it; none of no module."""
    found = set()
    for node in [] if path is None else _nodes(path):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


@pytest.mark.parametrize("top", TOPS)
def test_files_have_at_most_300_lines(top):
    lines = {name: path.read_bytes().count(b"\n") for name, path in _modules(top).items()}
    assert {name: count for name, count in lines.items() if count > 300} == {}


@pytest.mark.parametrize("top", [*TOPS, "tests"])
def test_every_folder_of_modules_is_a_package(top):
    folders = {path.parent for path in _modules(top).values()}
    assert [str(path) for path in folders if not (path / "__init__.py").is_file()] == []


@pytest.mark.parametrize("top", TOPS)
def test_packages_have_at_most_13_modules(top):
    counts = {}
    for path in _modules(top).values():
        if path.name not in ("__init__.py", "__main__.py"):
            counts[path.parent] = counts.get(path.parent, 0) + 1
    assert {str(path): count for path, count in counts.items() if count > 13} == {}


@pytest.mark.parametrize("top", TOPS)
def test_functions_have_at_most_eight_parameters(top):
    found = []
    for module, path in _modules(top).items():
        for node in _nodes(path):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                count = len([arg for arg in arguments if arg.arg not in ("self", "cls")])
                if count > 8:
                    found.append(f"{module}.{node.name} has {count}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", RETIRED)
def test_retired_name_is_used_nowhere(name):
    if not _lines():
        pytest.skip("needs a git checkout")
    pattern = re.compile(RETIRED[name])
    found = [f"{place}: {line}" for place, line in _lines() if pattern.search(line)]
    assert not found, "\n".join(found)
