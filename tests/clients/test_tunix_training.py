"""Tunix's trainers and sampler run compact modules."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import lcjax
from tests.clients.packages import client
from tests.clients.test_tunix import inputs, llama, random
from tests.clients.text import VOCABULARY, sentencepiece_processor

peft = client("tunix.sft.peft_trainer", "google-tunix")
samplers = client("tunix.generate.sampler", "google-tunix")


@pytest.fixture(scope="module")
def teacher():
    return random(llama(VOCABULARY))


@pytest.fixture
def student(teacher):
    compact, report = lcjax.nnx.collapse_sequential(teacher, [inputs()])
    assert len(report.collapsed) == 3
    return compact


def losses(trainer):
    return trainer.metrics_logger.get_metric_history("", "loss", "train")


def test_peft_trainer(student):
    tokens, positions, _, mask = inputs()
    batch = peft.TrainingInput(input_tokens=tokens, input_mask=np.ones(tokens.shape, bool))
    config = peft.TrainingConfig(eval_every_n_steps=100, max_steps=8)
    trainer = peft.PeftTrainer(student, optax.adam(1e-2), config)
    trainer.with_gen_model_input_fn(
        lambda batch: {
            "input_tokens": batch.input_tokens,
            "input_mask": batch.input_mask,
            "positions": positions,
            "attention_mask": mask,
        }
    )
    trainer.train([batch] * 8)
    history = losses(trainer)
    trainer.close()
    assert len(history) == 8
    assert history[-1] < 0.8 * history[0]


def test_sampler(student):
    config = samplers.CacheConfig(cache_size=32, num_layers=3, num_kv_heads=2, head_dim=8)
    sampler = samplers.Sampler(student, sentencepiece_processor(), config)
    sampled = sampler(["the quick brown"], max_generation_steps=6, eos_tokens=[VOCABULARY + 1])
    (written,) = sampled.tokens

    prompt = sampler.tokenizer.encode("the quick brown")
    tokens = [sampler.tokenizer.bos_id(), *prompt]
    for _ in range(6):
        row = np.asarray([tokens], np.int32)
        length = len(tokens)
        mask = np.tril(np.ones((1, length, length), bool))
        logits, _ = student(row, np.arange(length)[None], None, mask)
        tokens.append(int(logits[0, -1].argmax()))
    assert list(written) == tokens[-6:]


def test_distillation(teacher):
    from train.examples.tunix_distillation import distill

    student, history = distill(teacher, inputs(batch=16, length=8), steps=40)
    assert history[-1] < 0.9 * history[0]
    assert nnx.state(student, nnx.Param)
    graph, state = nnx.split(student)
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(np.isfinite(leaf).all()), state))
