"""Rules that name sites: paths, globs and compiled regular expressions."""

import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from lcjax.errors import CollapseError
from lcjax.tree.paths import in_params

Rule = str | re.Pattern[str]
"""A path, a glob over paths, or a compiled regular expression that matches whole paths."""

_logger = logging.getLogger("lcjax")


def is_rule(value: object) -> bool:
    """Returns whether this is a path, a glob or a compiled regular expression over text."""
    return isinstance(value, str) or (
        isinstance(value, re.Pattern) and isinstance(value.pattern, str)
    )


def matches(path: str, rule: Rule) -> bool:
    r"""Returns whether a rule names a path; the `*` of a glob crosses slashes.

    Example:
      >>> import re
      >>> [matches("block_12/mlp/up", each) for each in ("block_*/up", re.compile(r"block_\d/.*"))]
      [True, False]
    """
    if isinstance(rule, re.Pattern):
        return rule.fullmatch(path) is not None
    return path == rule or fnmatchcase(path, in_params(rule))


def matching(paths: Sequence[str], rule: Rule) -> list[str]:
    """Returns the site paths that a rule names; a path names that site alone.

    What a glob or a regular expression matches is logged once, by the logger "lcjax" at level INFO.

    Raises:
      CollapseError: if none does; lists the sites of the tree.
    """
    if rule in paths:
        return [path for path in paths if path == rule]
    found = [path for path in paths if matches(path, rule)]
    if not found:
        raise CollapseError(
            f"{shown(rule)} matches no site. The sites are: {listed(paths) or 'none'}. "
            "Name some of them, or give a glob such as '*'; capitals count."
        )
    _log_once(rule, tuple(found), len(paths))
    return found


@lru_cache(maxsize=4096)
def _log_once(rule: Rule, found: tuple[str, ...], number: int) -> None:
    names = ", ".join(path or "(root)" for path in found)
    _logger.info("%s matches %d of %d sites: %s", shown(rule), len(found), number, names)


def shown(rule: Rule) -> str:
    """Returns a rule as messages quote it."""
    return repr(rule.pattern) if isinstance(rule, re.Pattern) else repr(rule)


def listed(paths: Sequence[str]) -> str:
    """Returns the first eight paths as text, with the number of the others."""
    shown_paths = ", ".join(path or "(root)" for path in paths[:8])
    return shown_paths + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
