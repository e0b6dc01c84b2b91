"""The interface between models and surgery: a model that can be observed and rewritten."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from lcjax.structure.replacement import Replacement
from lcjax.structure.segment import Segment
from lcjax.structure.sites import Sites

# (variables, compact variables or None, batch) -> for every key of statistics the values x and t,
# (tokens..., d), one pair for every call of the layers; followed by the weights of tokens, or which
# of them count, (tokens...), where a pull is given, and for experts, to which only some are routed;
# and by False where tokens are slots of an expert, not in rows. Called under `jax.jit`.
Pairs = Mapping[str, Sequence[tuple[Any, ...]]]
Observe = Callable[[Any, Any, tuple[Any, ...]], Pairs]

# Which values a fit needs: see `Collapsible.observe`.
Observed = Literal["segment", "unit", "hidden"]


class Pull(Protocol):
    """Returns a cotangent of a model's output; tokens weigh by what it becomes where their t is."""

    def __call__(self, output: Any, batch: tuple[Any, ...]) -> Any:
        """Returns the cotangent of the output for a batch."""
        ...


class Size(NamedTuple):
    """The size of a model.

    Attributes:
      parameters: of the whole model, slopes left out.
      flops: multiply-adds times two for one token through Dense layers that sites connect.
    """

    parameters: int
    flops: int


class Rebuilt(NamedTuple):
    """A model with segments replaced.

    Attributes:
      tree: the new tree, of the type of the model's own `variables`; shares untouched leaves.
      written: paths (inside params) of the leaves that hold new arrays.
      removed: paths (inside params) of the model's leaves that are not in the tree any more.
      before: size of the model; `flops` counts the chains that were touched.
      after: size of the new tree; `flops` counts the same chains.
      touched: paths of all sites of the chains that were touched.
    """

    tree: Any
    written: tuple[str, ...]
    removed: tuple[str, ...]
    before: Size
    after: Size
    touched: tuple[str, ...] = ()


class Collapsible(Protocol):
    """A model whose sites can be found, observed and rewritten.

    The two front ends, `ParamsTree` (a tree of Flax params) and a traced call of any function,
    implement it; `collapse`, `calibrate`, `collapse_sequential`, `sensitivity` and `plan` are
    written over it. An instance never changes: every method returns something new, or raises
    CollapseError with the path of the site. It may be abstract: of ShapeDtypeStructs or tracers.
    """

    @property
    def variables(self) -> Any:
        """The tree of values: what `observe`'s function takes and what a metric is called with."""
        ...

    @property
    def sites(self) -> Sites:
        """The sites that are not collapsed yet, in forward order as far as it is known."""
        ...

    @property
    def collapsed(self) -> Collection[str]:
        """Paths of the sites that earlier collapses removed, as far as the tree says."""
        ...

    @property
    def size(self) -> Size:
        """Size of the model; `flops` counts all chains."""
        ...

    def forward_order(self, batch: tuple[Any, ...] | None) -> Sequence[str] | None:
        """Returns the paths of the sites in the order in which the model runs them.

        Args:
          batch: the model's inputs; None where there is no data.

        Returns:
          all paths in `sites`; None where neither the model nor the batch says the order.
        """
        ...

    def segments(self, chosen: Collection[str]) -> list[Segment]:
        """Returns the segments that removing the chosen sites makes, in the order of the sites.

        Neighbouring chosen sites make one segment, with the factors of earlier collapses between
        them as layers. Only segments that hold a chosen site are returned, and each chosen site is
        in one of them.

        Args:
          chosen: paths in `sites`, all paired.

        Raises:
          CollapseError: a site that cannot be fused in this form of the model, such as one with a
            norm that uses batch statistics.
        """
        ...

    def observe(
        self, segments: Sequence[Segment], observed: Observed, pull: Pull | None = None
    ) -> Observe:
        """Returns a function that runs the model and returns the values that a fit needs.

        `observe(...)(variables, compact, batch)` maps every key to pairs (x, t), one for each call.

        - "segment": the keys are `segment.key`, x (tokens..., d_in) is the segment's input and t
          (tokens..., d_out) its output.
          Of a segment of experts the keys are those of its `parts`, as those of its sites are.
        - "unit": the keys are the sites of the segments, x is the input of the activation and t its
          output, both (tokens..., units of the next layer).
        - "hidden": of segments of two layers. As "segment", but x is `[x, h]`, (tokens..., d_in +
          d_hidden), with h what the last layer reads: the hidden units.

        Where a tree has a bypass for the last two layers of a segment, the output is that of the
        bypass, in which it is added.

        Where `compact`, a tree that `rebuild` returned for other segments, is not None, the model
        runs with both trees: x is taken from the compact one and t from `variables`; but
        for "unit", where something r is added to the output t (a residual connection), t becomes
        `t + r − r'` with r' what is added in the compact model, so that the fit makes up for what
        the compact model gets wrong there.

        With `pull` a third value follows each pair: the weights of the tokens, float32 (tokens...),
        from a backward pass through the model with `variables`. Without, tokens weigh alike.

        The segments may be of several `segments` calls and share layers, as those of neighbouring
        sites that are collapsed alone do; their keys differ. They may also be those of
        `with_variables(compact)`, which differ from this model's where `compact` is smaller around
        them: sites and what they mean are the same.

        The function is called once for each shape of batch under `jax.jit`, with tracers in all
        arguments. Values that are not returned need not be computed.

        Raises:
          CollapseError: values that cannot be taken, as within a scan; a site that does not run.
          TypeError: no function is known that runs the model.
        """
        ...

    def rebuild(self, replacements: Mapping[Segment, Replacement]) -> Rebuilt:
        """Returns the tree with segments replaced; with none, the tree itself.

        Args:
          replacements: by segments that one `segments` call of this model returned (all of them or
            some); of those with `units`, which are written in this order, by `Segment.pair` of the
            segments of each site alone. Layers take the boxes (partition metadata) of those that
            they replace; their arrays are on the right devices already.

        Raises:
          CollapseError: a pair to remove that is not a whole chain.
        """
        ...

    def with_variables(self, variables: Any) -> "Collapsible":
        """Returns the same model with another tree of its own, such as one that `rebuild` made.

        `collapse_sequential` finds each segment anew in the tree that earlier segments left:
        `model.with_variables(tree).segments(...)` and `.rebuild(...)`, observed by
        `model.observe(...)` of the deep model with `compact=tree`.
        """
        ...

    def abstract(self) -> "Collapsible":
        """Returns the model with ShapeDtypeStructs, with their shardings, for arrays."""
        ...
