"""The steps of a collapse of a model folder, each done once however often it is killed."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from lcjax.calibration.fits import Fit
from lcjax.folder.data.batches import Batch, token_counts
from lcjax.folder.families import Family
from lcjax.folder.fitting.forms import Form, form_of
from lcjax.folder.fitting.layer_run import LayerRun
from lcjax.folder.fitting.losses import measure_losses
from lcjax.folder.fitting.mlp_tensors import MLPTensors, changed_tensors
from lcjax.folder.fitting.passes import LayerPasses
from lcjax.folder.fitting.plan import Fits
from lcjax.folder.fitting.planning import Measuring, choose
from lcjax.folder.fitting.solve import MLP
from lcjax.folder.fitting.streams import Streams
from lcjax.folder.options import FolderOptions
from lcjax.folder.output.model_card import model_card
from lcjax.folder.output.remote_code import MODULE, mixed_config, module_text
from lcjax.folder.output.report import REPORT, few_tokens
from lcjax.folder.storage.compact_folder import CompactFolder, as_json
from lcjax.folder.storage.work_directory import WorkDirectory
from lcjax.planning.budgets import Budget
from lcjax.planning.plan_file import fit_to_json


class FolderRun:
    """One collapse of one folder, in its work directory."""

    def __init__(
        self,
        family: Family,
        batches: Sequence[Batch],
        work: WorkDirectory,
        options: FolderOptions,
        *,
        texts: int,
    ):
        """Starts nothing yet.

        Args:
          family: of the source.
          batches: of the calibration set.
          work: its directory, new or of a call that was killed.
          options: of the call.
          texts: number of texts in the batches.
        """
        self._family, self._work, self._options = family, work, options
        self._streams = Streams(work.path / "hidden", batches, family)
        self._passes = LayerPasses(family)
        self._texts = {"texts": texts, **token_counts(batches)}
        self._planned_error: float | None = None

    def planned(self, budget: Budget) -> Fits:
        """Returns a fit for each layer within a budget, chosen by what fits of each cost alone."""
        streams = Streams(self._work.path / "plan", self._streams.batches, self._family)
        measuring = Measuring(
            self._family, streams, self._passes, self._options.buffer, self._options.multiple_of
        )
        measured = []
        for layer in range(self._family.depth):
            step = f"plan_{layer}"
            found = self._work.result(step)
            if found is None:
                if layer == 0:
                    streams.embed()
                found = measuring.run(layer)
                self._work.mark_done(step, found)
            streams.drop(("plan",), layer)
            measured.append(found)
        streams.drop(("plan",), self._family.depth)
        fits, self._planned_error = choose(self._family, measured, budget)
        return fits

    def finish(self, fits: Fits) -> dict[str, Any]:
        """Writes all files of the folder, and returns its report."""
        family = self._family
        forms = [form_of(fit, family.hidden) for fit in fits]
        mixed = self._options.mixed
        bias = mixed or family.leaves.has("block_0", "mlp", family.last, "bias")
        changed = changed_tensors(family, forms, bias=bias)
        folder = CompactFolder(
            self._work.folder, family.leaves.folder, changed.shapes, changed.like
        )
        if self._work.result("copied") is None:
            folder.create()
            self._work.mark_done("copied", True)
        layers = self._run_layers(folder, fits, forms, bias)
        loss = self._work.result("loss")
        if loss is None:
            error = layers[-1]["fitted"]["mean_squared_error"]
            loss = measure_losses(family, self._streams, error)
            self._work.mark_done("loss", loss)
        report = self._report(folder, layers, loss)
        self._write_rest(folder, forms, report)
        return report

    def _run_layers(
        self, folder: CompactFolder, fits: Fits, forms: Sequence[Form], bias: bool
    ) -> list[dict[str, Any]]:
        family, layers = self._family, []
        run = LayerRun(family, self._streams, self._passes)
        for layer, (fit, form) in enumerate(zip(fits, forms, strict=True)):
            step = f"layer_{layer}"
            found = self._work.result(step)
            if found is None:
                if layer == 0:
                    self._streams.embed()
                store = partial(_store, folder, MLPTensors(family, layer), bias=bias)
                found = run.run(layer, fit, bias=bias, store=store)
                self._work.mark_done(step, found)
            run.drop_inputs(layer)
            layers.append(self._described(layer, fit, form) | found)
        return layers

    def _described(self, layer: int, fit: Fit | None, form: Form) -> dict[str, Any]:
        return {
            "layer": layer,
            "site": self._family.site(layer),
            "fit": None if fit is None else fit_to_json(fit),
            **form.to_json(),
            "hidden": self._family.hidden,
        }

    def _report(
        self, folder: CompactFolder, layers: list[dict[str, Any]], loss: dict[str, Any]
    ) -> dict[str, Any]:
        source = self._family.leaves.folder
        widths = [layer["width"] for layer in layers if layer["form"] == "units"]
        return {
            "lcjax_report": 1,
            "source": source.path.name,
            "options": self._options.to_json(),
            "before": {"parameters": source.parameters, "bytes": source.bytes},
            "after": {"parameters": folder.parameters, "bytes": folder.bytes},
            "calibration": self._texts,
            "planned_error": self._planned_error,
            "loss": loss,
            "layers": layers,
            "notes": few_tokens(layers, max(widths, default=self._family.width)),
        }

    def _write_rest(
        self, folder: CompactFolder, forms: Sequence[Form], report: dict[str, Any]
    ) -> None:
        source = self._family.leaves.folder
        texts = {REPORT: as_json(report)}
        if self._options.mixed:
            changed, config = None, mixed_config(source.config, forms)
            texts[f"{MODULE}.py"] = module_text(source.config)
        else:
            changed = self._family.hidden_field
            config = {**source.config, changed: forms[0].width}
        texts["README.md"] = model_card(source.path, report, changed=changed)
        folder.write_rest(config, texts)


def _store(folder: CompactFolder, names: MLPTensors, mlp: MLP, *, bias: bool) -> MLP:
    """Writes a new MLP, and returns its params as they are stored."""
    tensors, rounded = names.stored(mlp, bias=bias)
    folder.write(tensors)
    return rounded
