"""The public names: which there are, that each has a docstring, what `import lcjax` loads."""

import importlib
import inspect
import pkgutil

import pytest

import lcjax

# A change here is a change for users: CHANGELOG.md says so.
PUBLIC = {
    "lcjax": [
        "Calibration",
        "CalibrationData",
        "Candidates",
        "CheckpointError",
        "CollapseError",
        "CollapseReport",
        "CollapsibleActivation",
        "CollapsibleFunction",
        "CollapsibleGLU",
        "CollapsibleGate",
        "CollapsibleMLP",
        "Count",
        "Exact",
        "ExportedModel",
        "FitPlan",
        "Flops",
        "FusedKey",
        "KLDivergence",
        "Latency",
        "LeastSquares",
        "LowRank",
        "MaxDrop",
        "Memory",
        "Params",
        "PerUnit",
        "Plan",
        "RelativeError",
        "Remove",
        "SegmentFit",
        "Sensitivity",
        "Site",
        "SiteSelection",
        "Sites",
        "Skip",
        "TracedCall",
        "Units",
        "abstract_collapse",
        "add_linearity_penalty",
        "anneal_slopes",
        "calibrate",
        "carry_opt_state",
        "collapse",
        "collapse_checkpoint",
        "collapse_sequential",
        "collapsible",
        "count_parameters",
        "eqx",
        "export",
        "find_sites",
        "folder",
        "interop",
        "linearity_penalty",
        "linen",
        "load_exported",
        "map_slopes",
        "models",
        "nnx",
        "plan",
        "plan_fits",
        "proximal_linearity_penalty",
        "read_metadata",
        "restore",
        "restore_calibration",
        "save",
        "save_calibration",
        "select_sites",
        "sensitivity",
        "slopes",
        "strength_for_gap",
        "tabulate",
        "unstack_layers",
        "update_site_selection",
        "with_linearity_penalty",
        "with_unit_slopes",
        "without_bypasses",
    ],
    "lcjax.interop": [
        "WeightsError",
        "load_safetensors",
        "model_from_config",
        "resolve_source",
        "save_safetensors",
    ],
    "lcjax.eqx": ["Collapsed", "add_slopes", "collapse", "explain", "find_sites", "trace"],
    "lcjax.folder": [
        "FolderOptions",
        "collapse_model",
        "describe_folder",
        "load_model",
        "save_model",
    ],
    "lcjax.linen": ["Collapsed"],
    "lcjax.models": [
        "BERT",
        "Decoder",
        "DecoderConfig",
        "GPT2",
        "MLP",
        "MLPMixer",
        "ModernBERT",
        "VGG",
        "ViT",
    ],
    "lcjax.nn": [
        "CollapsibleActivation",
        "CollapsibleGLU",
        "CollapsibleGate",
        "CollapsibleMLP",
        "interpolate",
    ],
    "lcjax.nnx": [
        "ModuleCall",
        "Slope",
        "add_slopes",
        "calibrate",
        "collapse",
        "collapse_sequential",
        "explain",
        "find_sites",
        "merge",
        "plan",
        "plan_fits",
        "sensitivity",
        "stack_layers",
        "trace",
        "unstack_layers",
    ],
}
PACKAGES = [
    "lcjax",
    *(package.name for package in pkgutil.walk_packages(lcjax.__path__, "lcjax.") if package.ispkg),
]


@pytest.mark.parametrize("package", PUBLIC)
def test_package_exports_the_pinned_names(package):
    assert sorted(importlib.import_module(package).__all__) == sorted(PUBLIC[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_exists_and_has_a_docstring(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        exported = getattr(module, name)
        if callable(exported) or inspect.ismodule(exported):
            assert exported.__doc__, f"{package}.{name}"
    assert len(set(module.__all__)) == len(module.__all__)
