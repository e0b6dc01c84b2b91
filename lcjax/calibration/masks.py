"""Masks: which positions of a batch count."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lcjax.errors import CollapseError


def counted(mask: Any) -> tuple[jax.Array, jax.Array]:
    """Returns which positions count, and whether a number of the mask is negative or NaN."""
    if mask is None or isinstance(mask, str):
        raise TypeError(
            f"mask returned {mask!r}; expected an array, True or not 0 where positions count."
        )
    mask = jnp.asarray(mask)
    if jnp.issubdtype(mask.dtype, jnp.signedinteger) or jnp.issubdtype(mask.dtype, jnp.floating):
        return mask != 0, ~jnp.all(mask >= 0)
    return mask.astype(bool), jnp.asarray(False)


def check_mask(negative: jax.Array | None) -> None:
    """Raises CollapseError if a batch's mask has negative numbers or NaN; waits for the batch."""
    if negative is not None and bool(negative):
        raise CollapseError(
            "mask returned negative numbers or NaN; expected True, or not 0, where positions "
            "count, and 0 where they do not. Of a mask that is added to scores return mask == 0."
        )


def over_tokens(key: str, counts: jax.Array, tokens: tuple[int, ...]) -> jax.Array:
    """Returns a mask as wide as a site's leading axes, matched from the first one on."""
    shape = counts.shape + (1,) * (len(tokens) - counts.ndim)
    if len(shape) != len(tokens) or any(
        n not in (1, wide) for n, wide in zip(shape, tokens, strict=True)
    ):
        raise CollapseError(
            f"{key}: mask has shape {counts.shape}, the leading axes here are {tokens}. Return a "
            "mask whose axes are those, from the first on, or 1; or calibrate this site alone."
        )
    return jnp.broadcast_to(counts.reshape(shape), tokens)


class Positions(NamedTuple):
    """Which positions of a batch count.

    Attributes:
      rows: of the first axis, 0 or 1; (rows,).
      mask: of the leading axes, bool; None where all positions of a row count.
    """

    rows: jax.Array
    mask: jax.Array | None = None

    def of(self, leading: tuple[int, ...]) -> jax.Array:
        """Returns which positions of an output count, float32, of its leading axes.

        The mask is left out where its axes are not those of the output, as of one output a row.

        Raises:
          CollapseError: a first axis that is not of the rows.
        """
        rows = self.rows.shape[0]
        if not leading or (leading[0] % rows if rows else leading[0]):
            raise CollapseError(
                f"output: its leading axes are {leading}, the batch has {rows} rows; expected the "
                "rows first. Return such an output; otherwise weigh tokens alike "
                '(weighting="equal"), and give a plan a metric(variables).'
            )
        count = jnp.repeat(self.rows.astype(jnp.float32), leading[0] // max(rows, 1))
        count = jnp.broadcast_to(count.reshape(-1, *(1,) * (len(leading) - 1)), leading)
        mask = self.mask
        if mask is None or mask.ndim > len(leading):
            return count
        mask = mask.reshape(mask.shape + (1,) * (len(leading) - mask.ndim))
        fits = all(n in (1, wide) for n, wide in zip(mask.shape, leading, strict=True))
        return count * mask.astype(jnp.float32) if fits else count
