"""RoBERTa, DistilBERT and ModernBERT give what transformers gives: float32, to 1e-4.

Golden values, made by transformers once (`python -m tests.reference.encoder_programs`), are always
checked; transformers itself where it is installed.
"""

import functools
import json

import jax
import numpy as np
import pytest

import lcjax
from lcjax.interop import WeightsError, load_safetensors, model_from_config
from lcjax.interop.weights import open_weights
from lcjax.models import BERT, ModernBERT
from tests.helpers.hostile import WRONG, safe
from tests.reference.encoder_cases import CASES, MASK, TOKENS, golden, real
from tests.reference.random_tensors import weights

library = pytest.importorskip("safetensors.numpy", reason="extra interop")
GOLDEN = golden()
CLOSE = dict(rtol=0, atol=1e-4)
# Parameters: what transformers and KerasHub count in the published encoders, without heads for
# masked tokens: RoBERTa 124,645,632 and 355,359,744, DistilBERT 66,362,880. For ModernBERT the
# model pages on huggingface.co count 149,655,232 and 395,881,664 with that head, of which its
# Dense, norm and bias have width ** 2 + width + vocabulary.
PUBLISHED = {
    "RoBERTa-base": 124_645_632,
    "RoBERTa-large": 355_359_744,
    "DistilBERT": 66_362_880,
    "ModernBERT-base": 149_655_232 - (768**2 + 768 + 50_368),
    "ModernBERT-large": 395_881_664 - (1024**2 + 1024 + 50_368),
}


def write(folder, config, tensors):
    """Writes a folder of one file."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    library.save_file(tensors, folder / "model.safetensors")
    return folder


@functools.cache
def _ours(name, folder):
    """The model, its variables, and its outputs for the texts."""
    write(folder, GOLDEN[name]["config"], weights(GOLDEN[name]["tensors"]))
    model, ignore = model_from_config(folder), ()
    if name == "roberta":  # the reference is the last hidden states
        model, ignore = model.clone(pool=None), "pooler.*"
    variables = load_safetensors(folder, model, ignore=ignore)
    return model, variables, np.asarray(jax.jit(model.apply)(variables, TOKENS, MASK))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("encoders")


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_golden_values(name, folder):
    want = np.array(GOLDEN[name]["outputs"])
    assert want.std() > 0.3
    np.testing.assert_allclose(real(_ours(name, folder / name)[2]), want, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_parameter_counts(preset):
    if preset.startswith("ModernBERT"):
        model = ModernBERT.from_preset(preset.removeprefix("ModernBERT-"), num_classes=None)
    else:
        pool = None if preset == "DistilBERT" else "pooler"  # DistilBERT alone has none
        model = BERT.from_preset(preset, num_classes=None, pool=pool)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    assert lcjax.count_parameters(shapes) == PUBLISHED[preset]


def test_bare_names_follow_the_config(folder):
    model, _, _ = _ours("roberta", folder / "roberta")
    assert (model.position_offset, model.max_length, model.token_types) == (2, 16, 1)
    with pytest.raises(WeightsError, match="! position_offset: config.json 2, model 0"):
        wrong = model.clone(position_offset=0, max_length=18)
        load_safetensors(folder / "roberta", wrong, ignore="pooler.*")
    with pytest.raises(WeightsError, match="pooler_activation: config.json"):
        model, _, _ = _ours("distilbert_classifier", folder / "distilbert_classifier")
        wrong = model.clone(pooler_activation=lambda x: x)
        load_safetensors(folder / "distilbert_classifier", wrong)


def test_sites_of_modernbert(folder):
    model, variables, outputs = _ours("modernbert", folder / "modernbert")
    sites = lcjax.find_sites(variables).paths
    assert sites == tuple(f"block_{i}/mlp/act" for i in range(4))
    compact, _ = lcjax.collapse(variables, sites[1:2], lcjax.Exact(max_gap=1.0))
    assert np.abs(jax.jit(model.apply)(compact, TOKENS, MASK) - outputs).max() > 1e-2


def test_leaves_of_fused_tensors_have_no_tensor_of_their_own(folder):
    model, variables, _ = _ours("modernbert", folder / "modernbert")
    with open_weights(folder / "modernbert", model) as opened:
        name, layout = opened.stored_as(("params", "block_2", "mlp", "up", "kernel"))
        assert name == "layers.2.mlp.Wi.weight" and layout.write is None
        whole = opened.tensors.read(name)
    np.testing.assert_array_equal(
        variables["params"]["block_2"]["mlp"]["up"]["kernel"], whole[24:].T, strict=True
    )


def test_local_theta_of_modernbert_is_that_of_transformers(tmp_path):
    config = {k: v for k, v in GOLDEN["modernbert"]["config"].items() if k != "local_rope_theta"}
    config["global_rope_theta"] = 5e4
    for given, expected in (({}, 1e4), ({"local_rope_theta": None}, 5e4)):
        write(tmp_path, config | given, {})
        assert model_from_config(tmp_path).local_theta == expected


def test_modernbert_rejects():
    model = ModernBERT(None, depth=1, width=8, num_heads=2, mlp_hidden=4, vocab_size=9)
    for wrong, message in (
        (model.clone(pool="max"), "got pool='max', expected one of"),
        (model.clone(num_heads=3), "got 3 heads for a width of 8; expected"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(wrong.init, jax.random.key(0), TOKENS)
    with pytest.raises(ValueError, match="expected .batch, tokens."):
        jax.eval_shape(model.init, jax.random.key(0), TOKENS[0])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("modernbert", dict(layer_types=["full_attention"] * 4), "layer_types: got an array of 4"),
        ("modernbert_classifier", dict(classifier_pooling="max"), "got 'max', expected cls or m"),
        ("modernbert", dict(num_attention_heads=3), "num_attention_heads: got 3, expected a div"),
        ("roberta", dict(max_position_embeddings=2), "max_position_embeddings: got 2, expected m"),
        ("roberta", dict(position_embedding_type="relative_key"), "got 'relative_key', expected"),
        ("distilbert", dict(quantization_config=dict(quant_method="awq")), "quantized by 'awq'"),
    ],
)
def test_config_that_no_encoder_runs(name, change, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GOLDEN[name]["config"] | change))
    with pytest.raises(WeightsError, match=message):
        model_from_config(tmp_path)


@pytest.mark.parametrize("name", ["roberta_classifier", "distilbert", "modernbert_classifier"])
def test_config_fields_of_wrong_types_raise_one_error(name, tmp_path):
    config = GOLDEN[name]["config"]
    for field in config.keys() - {"model_type"}:
        for wrong in (*WRONG.values(), 10**309):
            (tmp_path / "config.json").write_text(json.dumps(config | {field: wrong}))
            try:
                model_from_config(tmp_path)
            except WeightsError as error:
                safe(error)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # ModernBERT uses torch.compile
@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_transformers(name, tmp_path, folder):
    pytest.importorskip("torch", reason="extra reference")
    try:
        from tests.reference import encoder_programs as programs
    except ImportError as error:  # also from transformers, of versions that it does not run with
        pytest.skip(f"extra reference: {str(error)[:80]}")
    program = programs.program_of(name)
    assert programs.shapes_of(program) == GOLDEN[name]["tensors"]
    program.save_pretrained(tmp_path)
    theirs = real(programs.outputs_of(program))
    ours = real(_ours(name, folder / name)[2])
    np.testing.assert_allclose(ours, theirs, **CLOSE)
    model = _ours(name, folder / name)[0]
    again = load_safetensors(tmp_path, model, ignore="pooler.*" if name == "roberta" else ())
    jax.tree.map(np.testing.assert_array_equal, again, _ours(name, folder / name)[1])
