"""Methods that are one affine map, which run without a trace."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from lcjax.nnx.arguments import argument_leaves
from lcjax.nnx.calls.owners import Owner
from lcjax.nnx.functional import Path, node_at
from lcjax.nnx.rewritten import ATTRIBUTE, Affine
from lcjax.transform.ir.program import Op, Value
from lcjax.transform.lowering.site_chains import SiteChain

_MODES = ("deterministic", "use_running_average")  # which `Module.train` and `eval` set


def affine_of(owner: Owner) -> Affine | None:
    """Returns how a method runs whose every layer is fused into one map; None for others.

    Its output is that of the last layer, and its input the only thing it is computed from, each but
    for the dtype; it changes no state, and does the same in training.
    """
    if len(owner.parts) != 1 or owner.slopes or owner.parts[0].key.units:
        return None
    if _has_modes(owner.run.module):
        return None
    call, paths = owner.call, owner.parts[0].key.sites
    sites = {site.path: site for site in call.analysis.sites}
    chain = SiteChain(tuple(sites[path] for path in paths))
    source, end = _behind(chain.first.x), call.program.outs[0]
    read = source in call.program.inputs[len(call.program.state) :]
    if call.trace.out_paths != ("[0]",) or _behind(end) is not chain.last.out or not read:
        return None
    if not _keeps_layout(chain) or chain.sites[0].stack:
        return None
    run, last = owner.run, chain.last
    given = [leaf for leaf in jax.tree.leaves((run.args, run.kwargs)) if hasattr(leaf, "dtype")]
    place = call.program.inputs.index(source) - len(call.program.state)
    method = getattr(type(run.module), run.method)
    leaves = argument_leaves(run.module, method, run.args, run.kwargs)
    others = tuple(... if hasattr(leaf, "dtype") else leaf for leaf in leaves)
    attributes = _attributes(run.module)
    if len(given) != sum(leaf is ... for leaf in others) or not _hashable((others, attributes)):
        return None
    params = last.product.eqn.params
    preferred = params["preferred_element_type"]
    layer = (
        str(last.x.aval.dtype),
        str(last.kernel.aval.dtype),
        params["precision"],
        None if preferred is None else str(preferred),
    )
    entry = owner.parts[0].entry
    return Affine(
        leaf=next(i for i, leaf in enumerate(leaves) if leaf is given[place]),
        dtype=str(source.aval.dtype),
        others=others,
        layers=(layer,) * (1 if "kernel" in entry else len(entry)),
        out=str(end.aval.dtype),
        shapes=tuple(leaf.shape for leaf in leaves if hasattr(leaf, "dtype")),
        attributes=attributes,
    )


def was_seen(affine: Affine, module: nnx.Module, leaves: Sequence[Any]) -> bool:
    """Returns whether a method was traced as the map for these attributes and arguments.

    Attributes that neither the module nor its class had then do not count, such as those that qwix
    sets.

    Args:
      affine: the map.
      module: whose method it is.
      leaves: of the arguments.
    """
    if affine.shapes != tuple(leaf.shape for leaf in leaves if hasattr(leaf, "dtype")):
        return False
    now = {(path, name): value for path, name, value in _attributes(module)}
    same = all(now.pop((path, name), ...) == value for path, name, value in affine.attributes)
    return same and not any(hasattr(type(node_at(module, path)), name) for path, name in now)


def _attributes(module: nnx.Module) -> tuple[tuple[Path, str, Any], ...]:
    """Returns the attributes on which Python code of a module may depend."""
    found = []
    for path, node in nnx.iter_graph(module):
        own = path[:1] != (ATTRIBUTE,) and isinstance(node, nnx.Pytree)
        if own and not isinstance(node, nnx.Variable):
            static = {n: v for n, v in vars(node).items() if not n.startswith("_pytree__")}
            found += [(path, n, v) for n, v in static.items() if not _is_node(v)]
    return tuple(found)


def _is_node(value: Any) -> bool:
    """Returns whether a value is a part of a module's graph, or an array."""
    return isinstance(value, (nnx.Variable, nnx.Pytree)) or hasattr(value, "dtype")


def _has_modes(module: nnx.Module) -> bool:
    """Returns whether a module runs otherwise in training, as with dropout around its layers."""
    nodes = [node for _, node in nnx.iter_graph(module)]
    return any(hasattr(node, name) for node in nodes for name in _MODES)


def _behind(value: Value) -> Value:
    """Returns the value of which one is a cast."""
    while isinstance(value.maker, Op) and value.maker.name == "convert_element_type":
        value = value.maker.ins[0]
    return value


def _keeps_layout(chain: SiteChain) -> bool:
    """Returns whether the last axis holds the units of input and output, the rest the tokens."""
    first, last, tokens = chain.first, chain.last, chain.output_tokens
    places = [None if role is None else role[1] for role in last.roles[:-1]]
    same = all(i is None or tokens[i] in (None, axis) for axis, i in enumerate(places))
    width = len(first.x.shape) - 1
    return (
        same
        and first.x_axes == (width,)
        and last.roles[-1] == ("unit", 0)
        and len(last.kernel_out) == 1
        and first.x.shape[:-1] == last.out.shape[:-1]
    )


def _hashable(values: Any) -> bool:
    try:
        hash(values)
    except TypeError:
        return False
    return True
