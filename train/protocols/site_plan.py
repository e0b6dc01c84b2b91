"""Sites chosen by what they cost on the validation split."""

import math
from typing import Any

import lcjax
from lcjax.tree.selection import choose
from train.protocols.sample_size import warn_if_starved
from train.runtime.devices import is_first
from train.tasks.base import Task


def candidates(task: Task, variables: Any) -> list[str]:
    """Returns the paths of the sites that --last and --where leave, in forward order."""
    penalty = task.config.penalty
    paired = [site.path for site in lcjax.find_sites(variables) if site.paired]
    return choose(paired, last=penalty.last, where=penalty.where)


def says_how_many(task: Task) -> bool:
    """Returns whether --count or --target-params is given."""
    protocol = task.config.protocol
    return protocol.count is not None or protocol.target_params is not None


def planned(task: Task, deep: Any) -> lcjax.Plan:
    """Returns the plan for a deep model within --count, --target-params or --max-drop."""
    protocol, sites = task.config.protocol, candidates(task, deep)
    if is_first():
        print(
            f"planning: {len(sites)} sites, each collapsed on trial and measured on "
            f"{len(task.data.validation):,} examples",
            flush=True,
        )
    warn_if_starved(task, deep, sites)
    return lcjax.plan(
        task.classifier.logits,
        deep,
        task.merit,
        task.calibration,
        count=protocol.count,
        target_params=protocol.target_params,
        max_drop=None if says_how_many(task) else protocol.max_drop,
        sites=sites,
        order=protocol.order,
        fit=protocol.fit,
        sequential=protocol.sequential,
        threshold=math.inf,
        mask=task.classifier.mask,
    )
