"""Exact knowledge of which param each leaf of an optimizer state belongs to.

`init` runs on params whose leaves are in marks: whatever it makes of a leaf it makes inside of that
leaf's mark. This is the idea of `optax.tree_utils.tree_map_params`, whose placeholder has no leaves
and therefore gives no first values, which a param that surgery made needs.
"""

from typing import Any

import jax
import optax

from lcjax.tree.paths import in_params, leaf_path


class _MarkKey(jax.tree_util.GetAttrKey):
    """The key of a mark's leaf: `leaf_path` drops it, and its `key` is the name of the param.

    A mask of the user that looks at the last key of a path therefore sees the name that it expects.
    """

    def __init__(self, key: str):
        super().__init__("value")
        self.key = key


@jax.tree_util.register_pytree_with_keys_class
class ParamMark:
    """A leaf of params, or the state that an optimizer made of it.

    Attributes:
      value: the leaf, or a tree.
      path: of the param, without the collection `params/`.
    """

    def __init__(self, value: Any, path: str):
        self.value, self.path = value, path

    def __getattr__(self, name: str) -> Any:
        if name in ("ndim", "shape", "size", "dtype"):
            return getattr(self.value, name)
        raise AttributeError(name)

    def tree_flatten_with_keys(self):
        """Returns the value under its key, and the path as static data."""
        return ((_MarkKey(self.path.rpartition("/")[2]), self.value),), self.path

    @classmethod
    def tree_unflatten(cls, path, children):
        """Returns a mark of this path."""
        return cls(children[0], path)


def init_marked(tx: optax.GradientTransformation, params: Any) -> Any:
    """Returns `tx.init(params)` in which the state of each param is in a `ParamMark`.

    The transforms of lcjax select no site in it, so that it needs none of the sites that they name.
    """
    return tx.init(
        jax.tree_util.tree_map_with_path(
            lambda keys, leaf: ParamMark(leaf, in_params(leaf_path(keys))), params
        )
    )


def unmarked(state: Any) -> Any:
    """Returns a marked tree without its marks."""
    return jax.tree.map(
        lambda node: node.value if _is_mark(node) else node, state, is_leaf=_is_mark
    )


def param_paths(state: Any) -> dict[str, str]:
    """Returns the path of the param for every leaf path of a marked state that belongs to one."""
    found = {}
    for keys, node in jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_mark):
        if _is_mark(node):
            for inner, _ in jax.tree_util.tree_leaves_with_path(node.value):
                found[leaf_path((*keys, *inner))] = node.path
    return found


def selects_sites(params: Any) -> bool:
    """Returns whether `init` of a transform has to select sites in these params.

    It does not in marked params, nor in the placeholder of `optax.tree_utils.tree_map_params`,
    which is a tree without leaves: who calls `init` with those has the selection.
    """
    leaves = jax.tree.leaves(params, is_leaf=_is_mark)
    return bool(leaves) and not any(map(_is_mark, leaves))


def _is_mark(node: Any) -> bool:
    return isinstance(node, ParamMark)
