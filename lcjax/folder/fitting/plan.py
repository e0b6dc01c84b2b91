"""What each layer becomes: the same number of units everywhere, or a fit for each by a plan."""

from collections.abc import Sequence
from pathlib import Path

from lcjax._messages import first_few
from lcjax.calibration.fits import Fit, Units
from lcjax.folder.families import Family
from lcjax.folder.fitting.forms import Form, form_of
from lcjax.planning.budgets import Budget, Usage
from lcjax.planning.plan_file import PlanFile

Fits = list[Fit | None]


def mlp_parameters(family: Family, form: Form, *, bias: bool) -> int:
    """Returns the number of weights of a layer's MLP in a form.

    Args:
      family: of the layer.
      form: of the MLP.
      bias: whether the output of units gets a bias that the deep MLP may lack.
    """
    biases = sum(family.leaves.has("block_0", "mlp", name, "bias") for name in family.first)
    own = family.leaves.has("block_0", "mlp", family.last, "bias")
    return form.parameters(
        family.width, len(family.first), biases, own or (bias and form.kind != "deep")
    )


def uniform_fits(family: Family, budget: Budget, multiple_of: int, *, bias: bool = False) -> Fits:
    """Returns the same `Units(k)` for every layer, of the largest k that meets a budget.

    Args:
      family: of the model.
      budget: of parameters.
      multiple_of: of which k is a multiple.
      bias: whether the output of units gets a bias that the deep MLP may lack.

    Raises:
      ValueError: no k meets it; says the nearest that is possible.
    """
    whole = family.leaves.folder.parameters
    most = budget.most(Usage(0.0, whole, 0, family.depth))
    if whole <= most:
        raise ValueError(f"budget: {budget} is met by all {family.hidden:,} units; give less.")
    deep = mlp_parameters(family, Form("deep", family.hidden), bias=False)
    counts = range(family.hidden - family.hidden % multiple_of, 0, -multiple_of)
    smallest = whole
    for count in counts:
        own = mlp_parameters(family, Form("units", count), bias=bias)
        smallest = whole - family.depth * (deep - own)
        if smallest <= most:
            return [Units(count)] * family.depth
    raise ValueError(
        f"budget: got {budget}, {most:,.0f} of {whole:,} parameters, but with multiples of "
        f"{multiple_of} of {family.hidden:,} units the fewest are {smallest:,}. Give a larger "
        "budget, a smaller --multiple-of, or --mixed."
    )


def planned_fits(family: Family, path: Path) -> Fits:
    """Returns the fits of a plan file, for every layer.

    Raises:
      OSError: no such file.
      ValueError: not a plan, or one for other sites or widths, or with fits that have no form.
    """
    plan = PlanFile.load(path)
    sites = [family.site(layer) for layer in range(family.depth)]
    if unknown := set(plan.sites) - set(sites):
        raise ValueError(
            f"{path}: got sites {first_few(unknown)}, expected those of this model: "
            f"{first_few(sites)}. Plan again for this model."
        )
    widths = (family.width, family.hidden, family.width)
    for site, planned in plan.sites.items():
        if planned.widths != widths:
            raise ValueError(
                f"{path}: {site}: got widths {planned.widths}, this model has {widths}. Plan again "
                "for this model."
            )
        form_of(planned.fit, family.hidden)
    fits = [plan.fits.get(site) for site in sites]
    return [fit if form_of(fit, family.hidden).kind != "deep" else None for fit in fits]


def is_uniform(forms: Sequence[Form]) -> bool:
    """Returns whether all layers keep the same number of units and nothing else."""
    return len(set(forms)) == 1 and forms[0].kind == "units" and not forms[0].linear
