"""A plan of fits from a table of measurements: choices within budgets, files, text, pictures."""

import csv
import json
import math
from itertools import product

import numpy as np
import pytest

from lcjax import Count, Flops, LeastSquares, MaxDrop, Params
from lcjax.calibration.fits import Remove, Units
from lcjax.planning.budgets import Latency, Memory, Usage, as_budgets
from lcjax.planning.choosing.options import KEEP, Option, SiteOptions
from lcjax.planning.fit_plan import FitPlan
from lcjax.planning.table import FitTable, Round, agrees, became

FITS = [LeastSquares(), Units(8), Units(16, linear=True), Remove()]
SAVED = [600, 500, 300, 900]
WIDTHS = (16, 32, 16)


def table(sites=4, seed=0, ms=True):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(sites):
        drops = rng.uniform(0.01, 1, len(FITS))
        times = rng.integers(1, 9, len(FITS)) / 10
        options = [
            Option(fit, Usage(drop, -saved, -2 * saved, -1, -4 * saved, -time if ms else None), 0.9)
            for fit, drop, saved, time in zip(FITS, drops.tolist(), SAVED, times, strict=True)
        ]
        rows.append(SiteOptions(f"block_{i}/act_0", WIDTHS, (KEEP, *options), "w"))
    deep = Usage(0.0, 10_000, 20_000, sites, 40_000, 10.0 if ms else None)
    return FitTable(deep, tuple(rows))


def plan_of(found, *budgets, **fields):
    choice = found.choose(budgets)
    defaults = dict(metric="KL divergence", baseline=0.0, tolerance=0.2)
    return FitPlan(
        table=found, choice=choice, budgets=tuple(map(str, budgets)), **defaults | fields
    )


@pytest.mark.parametrize(
    "budgets",
    [
        (Params(0.8),),
        (Params(8200),),
        (Flops(0.7),),
        (Memory(0.75),),
        (Memory(30_000),),
        (Count(2),),
        (Latency(0.9),),
        (Latency(ms=8.5),),
        (Params(0.85), Latency(0.9)),
        (Params(0.8), Params(0.75)),
        (Params(0.85), MaxDrop(2.0)),
        (Params(0.9), Count(3), Memory(0.9)),
    ],
    ids=str,
)
def test_the_choice_drops_least_of_all_within_the_budgets(budgets):
    found = table()
    within = [
        usage
        for choice in product(range(5), repeat=4)
        for usage in [found.usage(choice)]
        if all(budget.met(usage, found.deep) for budget in budgets)
    ]
    got = found.usage(found.choose(budgets))
    assert all(budget.met(got, found.deep) for budget in budgets)
    assert got.drop == pytest.approx(min(usage.drop for usage in within), rel=1e-6)


@pytest.mark.parametrize("budgets", [(MaxDrop(0.9),), (MaxDrop(0.9), Count(2))])
def test_a_largest_drop_alone_asks_for_the_fewest_parameters(budgets):
    found = table()
    usages = [found.usage(choice) for choice in product(range(5), repeat=4)]
    within = [each for each in usages if all(one.met(each, found.deep) for one in budgets)]
    got = found.usage(found.choose(budgets))
    assert all(budget.met(got, found.deep) for budget in budgets)
    assert got.parameters == min(usage.parameters for usage in within)


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ((Params(0.5),), r"Params\(0.5\) cannot be met by these candidates; the least possible: "),
        ((Params(0.5),), "parameters 6,400"),
        ((Params(6_500), MaxDrop(0.1)), "cannot be met together by these candidates"),
        ((Params(6_500), MaxDrop(0.1)), "parameters [0-9,]* within the others, drop [0-9.]*"),
        ((Count(5),), r"Count\(5\) cannot be met.*sites that stay 0"),
        ((Latency(ms=0.1), Params(0.9)), r"cannot be met by these.*ms [0-9.]*"),
    ],
)
def test_budgets_that_cannot_be_met_are_refused_with_the_nearest(budgets, message):
    with pytest.raises(ValueError, match=message):
        table().choose(budgets)


def test_what_was_not_measured_has_no_budget():
    with pytest.raises(ValueError, match=r"got Latency\(0.5\), but ms was not measured"):
        table(ms=False).choose([Latency(0.5)])


def test_an_excess_lowers_the_limit():
    found = table()
    free = found.usage(found.choose([Params(0.8)]))
    tight = found.usage(found.choose([Params(0.8)], {"parameters": 500}))
    assert tight.parameters <= 7_500 < free.parameters + 500


def test_the_front_and_other_budgets_need_no_more_measurements():
    plan = plan_of(table(), Params(0.8))
    sizes = [each.predicted.parameters for each in plan.pareto_front]
    drops = [each.predicted.drop for each in plan.pareto_front]
    assert sizes == sorted(sizes) and drops == sorted(drops, reverse=True)
    assert plan.pareto_front[-1].fits == {} and drops[-1] == 0
    other = plan.at(Params(0.7))
    assert other.fits == table().fits(table().choose([Params(0.7)])) and other.measured is None
    assert "budget Params(0.7): predicted" in str(other)


def carried(found):
    choice = found.choose([Params(0.8)])
    predicted = found.usage(choice)
    measured = predicted._replace(drop=predicted.drop * 2)
    rounds = (Round(choice, predicted, measured),)
    return plan_of(found, Params(0.8), rounds=rounds, notes=("a note",))


def test_a_plan_comes_back_from_its_file(tmp_path):
    for plan in (carried(table()), plan_of(table(ms=False), MaxDrop(0.5))):
        plan.save(tmp_path / "plan.json")
        assert FitPlan.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("options"), "the plan lacks options"),
        (lambda found: found.update(offset=None), "offset of the plan is a JSON null"),
        (lambda found: found["options"].popitem(), "options lacks block_3/act_0"),
        (lambda found: found["rounds"][0].update(choice=[9]), "is not an option for each site"),
        (lambda found: found["deep"].pop("ms"), "deep lacks ms"),
        (lambda found: found["notes"].append(3), "notes is not a list of strings"),
        (
            lambda found: found["sites"]["block_0/act_0"].update(fit={"fit": "per_unit"}),
            "the fit of block_0/act_0 is not among its options",
        ),
    ],
)
def test_a_damaged_plan_is_refused(change, message, tmp_path):
    carried(table()).save(tmp_path / "plan.json")
    found = json.loads((tmp_path / "plan.json").read_text())
    change(found)
    (tmp_path / "plan.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=message):
        FitPlan.load(tmp_path / "plan.json")


def test_a_plan_prints_what_each_site_becomes_and_where_it_was_wrong():
    plan = carried(table())
    text = str(plan)
    for site, chosen in zip(plan.table.sites, plan.choice, strict=True):
        (row,) = (line for line in text.splitlines() if site.site in line)
        assert became(site.options[chosen].fit, WIDTHS) in row
    assert "differs by more than 20%; measured again around the choice, no better one found" in text
    assert "a note" in text
    assert "deep: drop 0, 10,000 parameters, 20,000 FLOPs/token, 40,000 bytes, 10.000 ms" in text
    assert "budget Params(0.8): met" in text


def test_a_plan_writes_csv_and_a_picture(tmp_path):
    plan = carried(table())
    plan.to_csv(tmp_path / "plan.csv")
    with open(tmp_path / "plan.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and sum(int(row["chosen"]) for row in rows) == 4
    assert rows[0]["fit"] == "kept" and rows[1]["parameters"] == "-600"
    pytest.importorskip("matplotlib", reason="extra train")
    plan.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Latency(), "got limit=None and ms=None; expected a fraction"),
        (lambda: Latency(0.5, ms=1), "got limit=0.5 and ms=1; expected a fraction"),
        (lambda: Latency(1.5), "got 1.5, expected a fraction of the deep model's time"),
        (lambda: Latency(ms=-1), "got ms=-1, expected more than 0"),
        (lambda: Latency(ms=math.nan), "got ms=nan, expected more than 0"),
        (lambda: Memory(0.0), "Memory: got 0.0, expected a whole number"),
    ],
)
def test_new_budgets_reject_numbers_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("given", "what"), [(3, "an int"), ([], "empty"), ([Count(1), 2], "an")])
def test_something_other_than_budgets_is_refused(given, what):
    with pytest.raises(TypeError, match=f"budget is {what}"):
        as_budgets(given)
    assert as_budgets(Count(1)) == (Count(1),)


def test_drops_agree_relative_to_the_larger():
    assert agrees(0.0, 0.0, 0.1) and agrees(1.0, 1.1, 0.1) and agrees(-1.0, -1.05, 0.1)
    assert not agrees(0.0, 0.1, 0.2) and not agrees(1.0, 1.3, 0.2)
