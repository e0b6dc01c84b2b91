"""One layer of a folder: its deep outputs, its fit, and the outputs of the compact layer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcjax.algebra.moments import Moments, merge
from lcjax.calibration.fits import Fit, Units
from lcjax.folder.families import Family
from lcjax.folder.fitting.passes import LayerPasses, Sums
from lcjax.folder.fitting.solve import (
    MLP,
    narrowed_first,
    pool_size,
    read_for,
    solve_layer,
    strongest,
)
from lcjax.folder.fitting.streams import Streams

_merge = jax.jit(merge, donate_argnums=0)
_NAMES = ("deep", "target", "compact")


class LayerRun:
    """Runs the layers of a family one after another over a calibration set."""

    def __init__(self, family: Family, streams: Streams, passes: LayerPasses):
        """Takes the model, the files of its hidden states, and the compiled passes."""
        self._family, self._streams, self._passes = family, streams, passes

    def run(
        self, layer: int, fit: Fit | None, *, bias: bool, store: Callable[[MLP], MLP]
    ) -> dict[str, Any]:
        """Writes a compact layer and the inputs of the next; returns its errors as JSON.

        Args:
          layer: its index.
          fit: of its MLP; None keeps it.
          bias: whether the new MLP may have a bias that the deep one lacks.
          store: writes the params of a new MLP, and returns them as they are stored.
        """
        params = self._family.leaves.tree(f"block_{layer}")
        strengths = self._deep(layer, params, wide=self._pool(fit) is not None)
        if fit is not None:
            own = self._of_pool(fit, params["mlp"], strengths)
            params = params | {"mlp": own}
            new = solve_layer(
                self._family, layer, fit, own, self._moments(layer, params, fit), bias=bias
            )
            del own, params["mlp"]
            params["mlp"] = jax.tree.map(jnp.asarray, store(new))
        sums = self._compact(layer, params)
        self._streams.finish(("deep", "compact"), layer)
        return {
            name: _errors(*each) for name, each in zip(("fitted", "held_out"), sums, strict=True)
        }

    def drop_inputs(self, layer: int) -> None:
        """Deletes the files that only this layer needed."""
        self._streams.drop(("deep", "compact"), layer)
        self._streams.drop(("target",), layer + 1)

    def _pool(self, fit: Fit | None) -> int | None:
        """Returns for how many hidden units moments are taken; None for all."""
        if not isinstance(fit, Units):
            return None
        size = pool_size(self._family, fit)
        return size if size < self._family.hidden else None

    def _deep(self, layer: int, params: Any, *, wide: bool) -> Moments | None:
        """Writes the deep layer's outputs; returns moments of its units where some are chosen."""
        inputs, (deep, target) = self._states("deep", layer), self._after(layer, "deep", "target")
        total, block = None, self._family.block(layer)
        for i, batch in enumerate(self._streams.batches):
            args = self._family.arguments(layer, batch.real)
            found = self._passes.deep(
                block, params, inputs.read(i), args, batch.counts, units=wide, read=None
            )
            deep.write(i, found.states)
            target.write(i, found.target)
            if found.units is not None:
                total = found.units if total is None else _merge(total, found.units)
        return total

    def _of_pool(self, fit: Fit, mlp: MLP, strengths: Moments | None) -> MLP:
        """Returns an MLP with the hidden units alone from which a fit chooses."""
        size = self._pool(fit)
        if size is None or strengths is None:
            return mlp
        last = mlp[self._family.last]["kernel"]
        pool = strongest(jax.device_get(strengths), np.asarray(last), size)
        first = narrowed_first(self._family, mlp, pool)
        return mlp | first | {self._family.last: {"kernel": last[pool]}}

    def _moments(self, layer: int, params: Any, fit: Fit) -> Moments:
        family, streams = self._family, self._streams
        read, block = read_for(fit), family.block(layer)
        total: Any = None
        mlp = {name: params["mlp"][name] for name in family.first} if read != "input" else {}
        inputs, (target,) = self._states("compact", layer), self._after(layer, "target")
        for i, batch in enumerate(streams.batches):
            args = family.arguments(layer, batch.real)
            total = self._passes.moments(
                block,
                params | {"mlp": mlp},
                inputs.read(i),
                args,
                target.read(i),
                batch.counts[0],
                total,
                read=read,
            )
        return total

    def _compact(self, layer: int, params: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Writes the compact layer's outputs; returns sums of its errors, in float64."""
        inputs = self._states("compact", layer)
        deep, target, compact = self._after(layer, *_NAMES)
        totals: list[Any] = [None, None]
        block = self._family.block(layer)
        for i, batch in enumerate(self._streams.batches):
            args = self._family.arguments(layer, batch.real)
            out, sums = self._passes.compact(
                block, params, inputs.read(i), args, target.read(i), deep.read(i), batch.counts
            )
            compact.write(i, out)
            for group, each in enumerate(jax.device_get(sums)):
                wide = Sums(*(np.asarray(value, np.float64) for value in each))
                before = totals[group]
                totals[group] = wide if before is None else Sums(*map(np.add, before, wide))
        return totals[0], totals[1]

    def _states(self, name: str, layer: int):
        return self._streams.states(name, layer)

    def _after(self, layer: int, *names: str):
        return tuple(self._streams.states(name, layer + 1) for name in names)


def _errors(
    count: Any, missed: Any, square: Any, total: Any, apart: Any, size: Any
) -> dict[str, Any]:
    """Returns R² of an MLP, and the relative error of the layer's output; None without tokens."""
    varied = float(square - (total**2).sum() / count) if count else 0.0
    return {
        "tokens": int(count),
        "r2": float(1 - missed / varied) if varied > 0 else None,
        "relative_error": float(np.sqrt(apart / size)) if size else None,
        "mean_squared_error": float(apart / count) if count else None,
    }
