"""`python -m train.language --pretrained OUT --teacher IN`: a compact folder and its teacher."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lcjax
from lcjax.folder import FolderOptions, collapse_model, load_model
from tests.helpers import runs
from tests.helpers.runs import configured, evaluate_here, prepare
from tests.helpers.tiny_text import SHORT, WORDS, write_text
from tests.lcjax.folder.folders import LLAMA, write_folder, write_tokenizer
from train import language
from train.engine.metrics_writer import read_metrics
from train.engine.run_directory import read_json
from train.models.serialization import module_as_json, module_from_json
from train.runs.finished import classifier_of
from train.tasks.distillation import hidden_loss
from train.tasks.language.folder import folder_teacher
from train.tasks.language.presets import PRESETS
from train.validation import ConfigError

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="extra interop")

LOGGED = SHORT | {"steps_per_dispatch": 2, "log_every": 1, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A deep folder, a compact one of mixed forms, and a text in their words."""
    root = tmp_path_factory.mktemp("student")
    deep = write_folder(root / "deep", LLAMA)
    write_tokenizer(deep, WORDS)
    options = FolderOptions(forms="mixed", multiple_of=8)
    texts = write_text(root / "a.txt", words=300).read_text().split("\n")
    collapse_model(deep, root / "compact", texts, budget=lcjax.Params(0.75), options=options)
    return root


def _config(folders, **fields):
    given = {"pretrained": str(folders / "compact"), "teacher": folders / "deep"}
    given |= {"dataset": str(folders / "a.txt")} | LOGGED | fields
    return configured("folder", PRESETS, **given)


@pytest.mark.slow
@pytest.mark.promotes
def test_student_starts_from_the_folder_and_learns_from_the_teacher(folders, monkeypatch, tmp_path):
    evaluate_here(monkeypatch)
    flags = [f"--{n.replace('_', '-')}={value}" for n, value in LOGGED.items()]
    start = ["--pretrained", folders / "compact", "--teacher", folders / "deep"]
    where = ["--dataset", folders / "a.txt", "--runs-dir", tmp_path, "--hidden-weight", "0.5"]
    runs.main(monkeypatch, *start, *where, *flags, module=language)
    run = tmp_path / "folder"
    metrics = read_metrics(run)
    assert {"train/divergence", "train/hidden_states"} <= {name for row in metrics for name in row}
    classifier, metadata = classifier_of(run / "deep")
    assert classifier.module == load_model(folders / "compact")[0].clone(dtype=np.float32)
    before, after = load_model(folders / "compact")[1], lcjax.restore(run / "deep")
    assert jax.tree.structure(before) == jax.tree.structure(after)
    changed = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, after)
    assert max(jax.tree.leaves(changed)) > 0 and metadata["data"]["context"] == 8
    assert read_json(run / "summary.json")["collapsed"] == []


@pytest.mark.slow
def test_loss_of_the_first_step_is_the_weighted_sum(folders):
    found = {}
    for weight in (0.0, 2.0):
        task = prepare(_config(folders, hidden_weight=weight, teacher_weight=0.25)).task
        tokens = jnp.arange(24).reshape(3, 8) % 12
        batch = ((tokens, (tokens + 1) % 12), task.source.arrays[1])
        params = task.variables["params"]
        found[weight] = task.loss(params, {}, batch, jax.random.key(0))
    loss, (_, metrics) = found[2.0]
    assert 0 < metrics["train/hidden_states"] < 1
    np.testing.assert_allclose(loss, found[0.0][0] + 2 * metrics["train/hidden_states"], rtol=1e-5)


@pytest.mark.slow
def test_padded_vocabulary_of_the_teacher_changes_nothing(folders, tmp_path):
    """Rows after the tokenizer's tokens that no text has and no softmax sees."""
    padded, rows = tmp_path / "padded", 8
    shutil.copytree(folders / "deep", padded)
    config = json.loads((padded / "config.json").read_text())
    config["vocab_size"] += rows
    (padded / "config.json").write_text(json.dumps(config))
    for file in padded.glob("*.safetensors"):
        tensors = safetensors_numpy.load_file(file)
        for name in tensors.keys() & {"model.embed_tokens.weight", "lm_head.weight"}:
            more = np.full((rows, tensors[name].shape[1]), 0.5, np.float32)
            tensors[name] = np.concatenate([tensors[name], more])
        safetensors_numpy.save_file(tensors, file, metadata={"format": "pt"})
    losses = []
    for teacher in (folders / "deep", padded):
        task = prepare(_config(folders, teacher=teacher, teacher_weight=1.0)).task
        tokens = jnp.arange(24).reshape(3, 8) % 12
        batch = ((tokens, (tokens + 1) % 12), task.source.arrays[1])
        losses.append(task.loss(task.variables["params"], {}, batch, jax.random.key(0))[0])
    assert losses[0] > 0
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)


@pytest.mark.slow
def test_teacher_with_fewer_rows_than_tokens_is_refused(folders, tmp_path):
    words = [*WORDS, *(f"more{i}" for i in range(LLAMA["vocab_size"]))]
    shutil.copytree(folders / "deep", tmp_path / "deep")
    write_tokenizer(tmp_path / "deep", words)
    with pytest.raises(ConfigError, match=r"tokenizer\.json has \d+ tokens but the model embeds"):
        folder_teacher(tmp_path / "deep", {})


@pytest.mark.slow
def test_module_of_a_folder_comes_back_from_json(folders):
    module = load_model(folders / "compact")[0]
    fields = json.loads(json.dumps(module_as_json(module)))
    assert module_from_json(fields) == module
    with pytest.raises(ValueError, match="depth is 5000, expected 0 to 1,024"):
        module_from_json(fields | {"config": fields["config"] | {"depth": 5000}})


def test_hidden_loss_is_relative_and_needs_the_same_blocks():
    states = [jnp.ones((2, 3, 4))] * 2
    assert hidden_loss([2 * states[0], states[1]], states) == 0.5
    with pytest.raises(ValueError, match="--hidden-weight: got 1 blocks with 2 of a teacher"):
        hidden_loss(states[:1], states)


@pytest.mark.slow
def test_wrong_folders_are_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"pretrained is '*.*expected a model folder"):
        prepare(_config(folders, pretrained=""))
    other = write_folder(tmp_path / "other", LLAMA)
    with pytest.raises(ConfigError, match=r"tokenizer\.json differs from the student's"):
        prepare(_config(folders, teacher=other))
    with pytest.raises(ConfigError, match="a Decoder, which has no dropout"):
        prepare(_config(folders, dropout=0.1))
