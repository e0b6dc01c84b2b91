"""Training runs of the decoder: surgery, its baselines, and students of the compact topology."""

from collections.abc import Mapping

from benchmarks.baselines.base import BASELINES, DROP
from benchmarks.deep_runs import LANGUAGE_DEEP, PENALTY, PLAIN_PENALTY, SWIGLU_DEEP
from benchmarks.harness.training_runs import Arguments, RunDirectory

SMALL = ("train.language", "shakespeare-small")
_SWIGLU = ("train.language", "shakespeare-swiglu")
_DEEP = LANGUAGE_DEEP.name
EPOCHS, HEAL_EPOCHS = 3, 1.0

_Rows = dict[str, Arguments]


def _collapsed(preset: Arguments, deep: str, fit: str, count: int, heal: float) -> Arguments:
    start = (*preset, "--from", RunDirectory(deep), "--fit", fit, "--count", f"{count}")
    return (*start, "--heal-epochs", f"{heal:g}")


def _healed(rate: str, epochs: float = HEAL_EPOCHS) -> Arguments:
    healed = _collapsed(SMALL, _DEEP, "least_squares", 2, epochs)
    return (*healed, "--heal-learning-rate", rate)


SURGERY: _Rows = {
    _DEEP: LANGUAGE_DEEP.arguments,
    **{
        f"language-{fit.replace('_', '-')}-{count}": _collapsed(SMALL, _DEEP, fit, count, 0)
        for fit in ("exact", "per_unit", "least_squares")
        for count in (1, 2)
    },
    "language-healed-2": (*_healed("1e-3"), "--no-deep-teacher"),
    "language-taught-2": _healed("1e-3"),
    # The learning rate of the training before, the best on the validation split of the first seed.
    "language-taught-3e-3-2": _healed("3e-3"),
    "language-taught-two-epochs-2": _healed("3e-3", 2),
    "language-taught-four-epochs-2": _healed("3e-3", 4),
    # For comparison with healing: as many epochs, nothing collapsed.
    **{
        row: (
            *(*SMALL, "--from", RunDirectory(_DEEP), *PLAIN_PENALTY),
            *("--epochs", f"{HEAL_EPOCHS:g}", "--learning-rate", rate),
        )
        for row, rate in (("language-more", "1e-3"), ("language-more-3e-3", "3e-3"))
    },
    "language-penalty": (*SMALL, *PENALTY),
    "language-penalty-least-squares-2": _collapsed(
        SMALL, "language-penalty", "least_squares", 2, 0
    ),
    SWIGLU_DEEP.name: SWIGLU_DEEP.arguments,
    "language-swiglu-least-squares-2": _collapsed(_SWIGLU, SWIGLU_DEEP.name, "least_squares", 2, 0),
}

_ALL_EPOCHS = ("--epochs", f"{EPOCHS + HEAL_EPOCHS:g}")
_HEALED = RunDirectory("language-taught-3e-3-2")
_PUBLISHED = "language-published-1"
# For comparison with the healed model: baselines of its size with the same healing, and other
# trainings with the same number of steps in total, without those of a teacher.
BASELINE_ROWS: _Rows = {
    **{f"language-{run}-2": (module, _HEALED) for run, (module, _) in BASELINES.items()},
    "language-removed-2": (DROP, _HEALED),
    "language-deep-all-epochs": (*SMALL, *PLAIN_PENALTY, *_ALL_EPOCHS),
    "language-penalty-all-epochs": (*SMALL, *PENALTY, *_ALL_EPOCHS),
    "language-annealed-taught-2": (
        *(*SMALL, "--protocol", "anneal", "--last", "2", *_ALL_EPOCHS),
        *("--teacher", RunDirectory("language-more-3e-3")),
    ),
    "language-scratch-2": (*SMALL, *PLAIN_PENALTY, *_ALL_EPOCHS, "--collapsed-from", _HEALED),
    _PUBLISHED: (*SMALL, "--protocol", "paper", "--strength", "1", *_ALL_EPOCHS),
    f"{_PUBLISHED}-exact-2": (
        *_collapsed(SMALL, _PUBLISHED, "exact", 2, 0),
        *("--activation", "relu"),
    ),
}

_STUDENT = ("train.distill", RunDirectory("language-healed-2"), "--epochs")
# Students of the compact topology: as many steps as healing, twice as many, and as many as deep
# training and healing together.
STUDENTS: _Rows = {
    "language-student-heal-steps": (*_STUDENT, f"{HEAL_EPOCHS:g}"),
    "language-student-two-epochs": (*_STUDENT, f"{2 * HEAL_EPOCHS:g}"),
    "language-student-all-steps": (*_STUDENT, f"{EPOCHS + HEAL_EPOCHS:g}"),
}


def timed_students(step: Mapping[str, float]) -> _Rows:
    """Returns the rows of students that train for the time of healing, or of training and healing.

    Args:
      step: seconds of a step: "deep", "healing" without a teacher, and "student", which is also a
        step of healing with the deep model as teacher.
    """
    alone = HEAL_EPOCHS * step["healing"] / step["student"]
    whole = HEAL_EPOCHS + EPOCHS * step["deep"] / step["student"]
    return {
        "language-student-alone-time": (*_STUDENT, f"{alone:.3f}"),
        "language-student-whole-time": (*_STUDENT, f"{whole:.3f}"),
    }
