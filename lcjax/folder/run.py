"""The steps of a collapse of a model folder, each done once however often it is killed."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from lcjax.calibration.fits import Fit
from lcjax.folder.data.batches import Batch, token_counts
from lcjax.folder.families import Family
from lcjax.folder.fitting.forms import Form, form_of
from lcjax.folder.fitting.layer_run import LayerRun
from lcjax.folder.fitting.losses import measure_losses
from lcjax.folder.fitting.mlp_tensors import MLPTensors, changed_tensors
from lcjax.folder.fitting.passes import LayerPasses
from lcjax.folder.fitting.plan import Fits
from lcjax.folder.fitting.plan_forms import better, plan_forms
from lcjax.folder.fitting.solve import MLP
from lcjax.folder.fitting.streams import Streams
from lcjax.folder.options import FolderOptions
from lcjax.folder.output.model_card import CARD, model_card
from lcjax.folder.output.remote_code import MODULE, mixed_config, module_text
from lcjax.folder.output.report import REPORT, few_tokens
from lcjax.folder.storage.compact_folder import CompactFolder, as_json
from lcjax.folder.storage.work_directory import WorkDirectory
from lcjax.planning.budgets import Budget
from lcjax.planning.plan_file import fit_to_json


class Carried(NamedTuple):
    """A choice of fits that was carried out: all of a folder's tensors that it changes are written.

    Attributes:
      folder: that has them.
      forms: of the layers.
      layers: errors of the layers, as JSON.
      loss: of the model, as JSON.
    """

    folder: CompactFolder
    forms: list[Form]
    layers: list[dict[str, Any]]
    loss: dict[str, Any]


class Finished(NamedTuple):
    """A folder of which all files are written.

    Attributes:
      work: directory that has it.
      report: contents of its report.
    """

    work: WorkDirectory
    report: dict[str, Any]


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
        self._batches, self._passes = batches, LayerPasses(family)
        self._texts = {"texts": texts, **token_counts(batches)}

    def best(self, budget: Budget) -> Finished:
        """Writes all files of the folder with the best fits within a budget that were found.

        The fits that were chosen by what each costs alone, and the same number of units in every
        layer, are both carried out: errors of many layers do not quite add up. The first stays
        where its loss is clearly smaller on texts that neither was fitted on.
        """
        choices, predicted = plan_forms(
            self._family, self._batches, self._passes, self._work, self._options, budget
        )
        carried = {
            name: self._carry_out(self._work.part(name), fits) for name, fits in choices.items()
        }
        losses = {name: each.loss["measured"] for name, each in carried.items()}
        taken = better(losses, carried["planned"].loss["deep"])
        found = {"predicted": predicted, "measured": losses, "taken": taken}
        return self._finish(self._work.part(taken), carried[taken], found)

    def finish(self, fits: Fits) -> Finished:
        """Writes all files of the folder with these fits."""
        return self._finish(self._work, self._carry_out(self._work, fits), None)

    def _carry_out(self, work: WorkDirectory, fits: Fits) -> Carried:
        """Writes what fits change of the folder."""
        family = self._family
        forms = [form_of(fit, family.hidden) for fit in fits]
        bias = self._options.mixed or family.leaves.has("block_0", "mlp", family.last, "bias")
        changed = changed_tensors(family, forms, bias=bias)
        folder = CompactFolder(work.folder, family.leaves.folder, changed.shapes, changed.like)
        if work.result("created") is None:
            folder.create()
            work.mark_done("created", True)
        streams = Streams(work.path / "hidden", self._batches, family)
        layers = self._run_layers(work, streams, folder, fits, forms, bias)
        loss = work.result("loss")
        if loss is None:
            error = layers[-1]["fitted"]["mean_squared_error"]
            loss = measure_losses(family, streams, error)
            work.mark_done("loss", loss)
        return Carried(folder, forms, layers, loss)

    def _finish(
        self, work: WorkDirectory, carried: Carried, choice: dict[str, Any] | None
    ) -> Finished:
        """Writes everything else of a folder."""
        if work.result("copied") is None:
            carried.folder.copy()
            work.mark_done("copied", True)
        report = self._report(carried, choice)
        self._write_rest(carried, report)
        return Finished(work, report)

    def _run_layers(
        self,
        work: WorkDirectory,
        streams: Streams,
        folder: CompactFolder,
        fits: Fits,
        forms: Sequence[Form],
        bias: bool,
    ) -> list[dict[str, Any]]:
        family, layers = self._family, []
        run = LayerRun(family, streams, self._passes)
        for layer, (fit, form) in enumerate(zip(fits, forms, strict=True)):
            step = f"layer_{layer}"
            found = work.result(step)
            if found is None:
                if layer == 0:
                    streams.embed()
                store = partial(_store, folder, MLPTensors(family, layer), bias=bias)
                found = run.run(layer, fit, bias=bias, store=store)
                work.mark_done(step, found)
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

    def _report(self, carried: Carried, choice: dict[str, Any] | None) -> dict[str, Any]:
        source, folder, layers = self._family.leaves.folder, carried.folder, carried.layers
        widths = [layer["width"] for layer in layers if layer["form"] == "units"]
        return {
            "lcjax_report": 1,
            "source": source.path.name,
            "options": self._options.to_json(),
            "before": {"parameters": source.parameters, "bytes": source.bytes},
            "after": {"parameters": folder.parameters, "bytes": folder.bytes},
            "calibration": self._texts,
            "choice": choice,
            "loss": carried.loss,
            "layers": layers,
            "notes": few_tokens(layers, max(widths, default=self._family.width)),
        }

    def _write_rest(self, carried: Carried, report: dict[str, Any]) -> None:
        source = self._family.leaves.folder
        texts = {REPORT: as_json(report)}
        if self._options.mixed:
            changed, config = None, mixed_config(source.config, carried.forms)
            texts[f"{MODULE}.py"] = module_text(source.config)
        else:
            changed = self._family.hidden_field
            config = {**source.config, changed: carried.forms[0].width}
        texts[CARD] = model_card(source.path, report, changed=changed)
        carried.folder.write_rest(config, texts)


def _store(folder: CompactFolder, names: MLPTensors, mlp: MLP, *, bias: bool) -> MLP:
    """Writes a new MLP, and returns its params as they are stored."""
    tensors, rounded = names.stored(mlp, bias=bias)
    folder.write(tensors)
    return rounded
