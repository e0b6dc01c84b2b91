"""What help() says of public names: arguments, results, errors, and an example to paste."""

import ast
import builtins
import doctest
import importlib
import inspect
import textwrap

import pytest

from tests.test_public_api import PUBLIC


def _public():
    """Yields (package.name, object) of every public class and function, each once."""
    seen = set()
    for package, names in PUBLIC.items():
        module = importlib.import_module(package)
        for name in names:
            thing = getattr(module, name)
            if callable(thing) and id(thing) not in seen:
                seen.add(id(thing))
                yield f"{package}.{name}", thing


NAMES = dict(_public())


def _arguments(thing):
    try:
        return [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]
    except ValueError:  # an exception, whose arguments are those of its base
        return []


@pytest.mark.parametrize("name", NAMES)
def test_public_name_says_what_it_takes_returns_and_raises(name):
    thing, text = NAMES[name], inspect.getdoc(NAMES[name]) or ""
    missing = []
    if inspect.isclass(thing):
        if _arguments(thing) and not any(part in text for part in ("Attributes:", "Args:")):
            missing.append("Attributes or Args")
    else:
        if _arguments(thing) and "Args:" not in text:
            missing.append("Args")
        if inspect.signature(thing).return_annotation is not None and "Returns" not in text:
            missing.append("Returns")
        raises = [node for node in ast.walk(_tree(thing)) if isinstance(node, ast.Raise)]
        if raises and "Raises:" not in text:
            missing.append("Raises")
    assert not missing, f"help({name}) lacks {', '.join(missing)}"


@pytest.mark.parametrize("name", NAMES)
def test_public_name_has_an_example_that_can_be_pasted(name):
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(NAMES[name]) or "")
    assert examples, f"help({name}) lacks an example"
    known = {*dir(builtins), "_"}
    for example in examples:
        tree = ast.parse(example.source)
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        known |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
        known |= {arg.arg for node in ast.walk(tree) if isinstance(node, ast.arguments)
                  for arg in (*node.posonlyargs, *node.args, *node.kwonlyargs)}  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                known |= {(each.asname or each.name).split(".")[0] for each in node.names}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                known.add(node.name)
        unknown = sorted({node.id for node in names} - known)
        assert not unknown, f"the example of {name} uses {', '.join(unknown)}, which it never makes"


def _tree(thing):
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))
