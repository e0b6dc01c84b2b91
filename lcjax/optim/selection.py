"""The selection of sites as optimizer states store it."""

from typing import Any

import jax.numpy as jnp

from lcjax.optim.param_states import selects_sites
from lcjax.tree.selection import SiteSelection, Weights, weigh
from lcjax.tree.slopes import selected, slopes_like


def marks_of(params: Any, selection: SiteSelection) -> Any:
    """Returns a bool scalar for each slope, whether its site is selected; MaskedNode elsewhere."""
    chosen = set(selected(params, selection)) if selects_sites(params) else set()
    return slopes_like(params, lambda site, _: jnp.array(site in chosen), selection)


def weights_by_site(
    params: Any, selection: SiteSelection, weights: Weights | None
) -> dict[str, Any]:
    """Returns the weights of the selected sites."""
    chosen = selected(params, selection)
    return weigh(chosen, 1.0 if weights is None else weights, ordered=selection.order is not None)
