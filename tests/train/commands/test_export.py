"""`python -m train.language export RUN FOLDER`: a trained model becomes a folder like its first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.folder import load_model
from lcjax.folder.fitting.forms import Form
from tests.helpers import runs
from tests.helpers.runs import configured, evaluate_here, prepare
from tests.helpers.tiny_text import PLAIN, SHORT, WORDS, on_text, write_text
from tests.lcjax.folder.folders import BERT, LLAMA, write_folder, write_forms, write_tokenizer
from train import language
from train.config.base import as_json
from train.engine.run_directory import read_json, write_json
from train.generation.generate import generate
from train.runs.conclude import _metadata
from train.runs.export import export
from train.tasks.language.presets import PRESETS
from train.validation import ConfigError

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="extra interop")

# Two steps.
TWO_STEPS = SHORT | {"train_tokens": 150, "steps_per_dispatch": 1, "learning_rate": 1e-2}
SCORES = {"loss": 2.5, "perplexity": 12.18, "accuracy": 0.25}
CONFIG = LLAMA | {"num_hidden_layers": 3, "tie_word_embeddings": True}


def _source(kind, folder):
    """A uniform folder in bfloat16 with a tied head, or one of mixed forms."""
    if kind == "uniform":
        folder = write_folder(folder, CONFIG, dtype=jnp.bfloat16)
    else:
        folder = write_forms(folder, LLAMA, [Form("units", 8, True), Form("constant", 0), None])
    write_tokenizer(folder, WORDS)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "a.txt", words=300)


def _finished(run, config, **summary):
    """A run's directory as it is when it is finished, without training; and its task."""
    task = prepare(config).task
    run.mkdir(parents=True)
    write_json(run / "config.json", as_json(config))
    scores = {"validation": SCORES, "test": SCORES}
    found = {"steps": 2, "collapsed": [], "compact": scores}
    write_json(run / "summary.json", found | summary)
    lcjax.save(run / "compact", task.variables, metadata=_metadata(task))
    return task


def _folder_run(root, text, kind="uniform"):
    """The run of a folder and the folder, both new."""
    source = _source(kind, root / "small")
    given = {"pretrained": str(source), "dataset": str(text)} | TWO_STEPS
    _finished(root / "run", configured("folder", PRESETS, **given))
    return root / "run", source


@pytest.mark.slow
@pytest.mark.promotes
@pytest.mark.parametrize("kind", ["uniform", "mixed"])
def test_trained_student_is_written_back(kind, text, monkeypatch, tmp_path, capsys):
    evaluate_here(monkeypatch)
    source = _source(kind, tmp_path / "small")
    teacher = write_folder(tmp_path / "deep", LLAMA)
    write_tokenizer(teacher, WORDS)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in TWO_STEPS.items()]
    where = ["--dataset", text, "--runs-dir", tmp_path, "--teacher", teacher]
    runs.main(monkeypatch, "--pretrained", source, *where, *flags, module=language)
    run, target = tmp_path / "folder", tmp_path / "trained"
    runs.main(monkeypatch, "export", run, target, module=language)
    assert capsys.readouterr().out.endswith(f"written to {target}\n")

    trained, stored = lcjax.restore(run / "compact"), {"uniform": jnp.bfloat16}.get(kind)
    model, variables = load_model(target)
    tokens = np.arange(24).reshape(3, 8) % 12
    apply = jax.jit(model.apply)
    rounded = jax.tree.map(
        lambda leaf: leaf.astype(stored or leaf.dtype).astype(leaf.dtype), trained
    )
    np.testing.assert_array_equal(apply(variables, tokens), apply(rounded, tokens))
    assert np.abs(apply(variables, tokens) - apply(load_model(source)[1], tokens)).max() > 1e-3
    texts = [generate(one, prompt="the king", length=9).text for one in (run / "compact", target)]
    assert texts[0].startswith("the king ") and (texts[0] == texts[1] or stored)
    for file in source.glob("*.safetensors"):
        ours, theirs = (safetensors_numpy.load_file(f / file.name) for f in (target, source))
        assert {n: (t.shape, t.dtype) for n, t in ours.items()} == {
            n: (t.shape, t.dtype) for n, t in theirs.items()
        }
    assert read_json(target / "config.json") == read_json(source / "config.json")
    summary, card = read_json(run / "summary.json"), (target / "README.md").read_text()
    assert summary["steps"] == 2 and "\nsteps 2\n" in card and "\nteacher deep\n" in card
    assert f"\ntest loss {summary['compact']['test']['loss']:.4g}\n" in card


def test_run_without_training_gives_the_same_weights(text, tmp_path):
    run, source = _folder_run(tmp_path, text, "mixed")
    assert export(run, tmp_path / "trained") == tmp_path / "trained"
    ours, theirs = (f / "model.safetensors" for f in (tmp_path / "trained", source))
    assert ours.read_bytes() == theirs.read_bytes()
    card = (tmp_path / "trained" / "README.md").read_text()
    assert "dataset a.txt\nsteps 2\ncontext 8\nbatch size 8\nepochs 1\nlearning rate 0.01\n" in card
    assert "test loss 2.5\n" in card and "teacher" not in card and str(text.parent) not in card


def test_folder_that_was_moved_is_given(text, tmp_path):
    run, source = _folder_run(tmp_path, text)
    source.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="small: no such .* Give --pretrained if it"):
        export(run, tmp_path / "trained")
    assert export(run, tmp_path / "trained", pretrained=tmp_path / "moved").is_dir()
    with pytest.raises(FileExistsError, match="the path exists; expected a new one"):
        export(run, tmp_path / "trained", pretrained=tmp_path / "moved")


def _edit(file, **fields):
    write_json(file, read_json(file) | fields)


def _other_words(run, source):
    write_tokenizer(source, [*WORDS, "more"])


def _other_network(run, source):
    _edit(source / "config.json", rope_theta=500.0)


def _collapsed(run, source):
    _edit(run / "summary.json", collapsed=["block_0/mlp/act"])


def _unfinished(run, source):
    (run / "summary.json").unlink()


def _damaged(run, source):
    _edit(run / "config.json", optimizer=[])


WRONG = {
    _other_words: r"tokenizer\.json differs from the run's; expected the folder",
    _other_network: r"config\.json describes another network than the run's",
    _collapsed: "collapsed sites, of which its folder has no form",
    _unfinished: r"is not a finished run: it has no summary\.json",
    _damaged: r"config\.json or summary\.json lacks list indices must be",
}


@pytest.mark.parametrize("change", WRONG)
def test_what_does_not_fit_is_an_error_and_nothing_is_written(change, text, tmp_path):
    run, source = _folder_run(tmp_path, text)
    change(run, source)
    with pytest.raises(ConfigError, match=WRONG[change]):
        export(run, tmp_path / "trained")
    assert not (tmp_path / "trained").exists()


def test_text_of_a_folder_needs_a_decoder(tmp_path):
    with pytest.raises(ConfigError, match="small is the folder of a BERT; expected that of a dec"):
        generate(write_folder(tmp_path / "small", BERT))


def test_runs_of_other_models_are_an_error(text, tmp_path, monkeypatch):
    _finished(tmp_path / "run", on_text(text, **PLAIN))
    expected = "error: .* trained a GPT2 that is not from a model folder; expected a run of `python"
    with pytest.raises(SystemExit, match=expected):
        runs.main(monkeypatch, "export", tmp_path / "run", tmp_path / "out", module=language)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
