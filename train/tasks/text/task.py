"""The task of a run on texts."""

from pathlib import Path
from typing import Any

from lcjax._optional import import_optional
from train.data.images.splits import DataError
from train.data.text.labelled import load_texts, tokenise
from train.data.text.length_buckets import TextSplit, bucketed
from train.data.text.tokenizer import Tokenizer
from train.data.text.tsv import find_texts
from train.models.serialization import module_as_json
from train.tasks.base import Task, assemble, keys
from train.tasks.text.config import TextConfig
from train.tasks.text.objective import TextClassifier
from train.validation import ConfigError


def make_task(config: TextConfig) -> Task:
    """Returns the data and the model that a config asks for.

    Raises:
      ValueError: when a flag's value cannot be, or the data set, the weights or a run do not fit.
      FileNotFoundError: when there are no such weights.
      ImportError: when a package of the extra `text` is not installed.
    """
    for package in ("tokenizers", "safetensors"):
        use = f"Training on texts needs the package {package}, which is missing"
        import_optional(package, use, "lcjax[text]")
    asked, folder = config.data, config.model.folder()
    table = config.model.build(num_classes=1).max_length
    tokenizer = Tokenizer.of(folder, min(asked.lengths[-1], table))
    data = load_texts(
        asked.dataset,
        tokenizer,
        asked.lengths,
        data_dir=asked.data_dir,
        test_file=asked.test_file,
        validation=asked.validation,
        num_classes=asked.num_classes,
        train_examples=asked.train_examples,
        longest=asked.longest,
    )
    module = config.model.build(data.num_classes)
    classifier = TextClassifier(module)
    _check_vocabulary(tokenizer, module.vocab_size, folder)
    shared = {"dataset": asked.dataset, "vocabulary": tokenizer.digest}
    known = shared | {
        "test_file": None if asked.test_file is None else str(asked.test_file),
        "class_names": list(data.class_names),
        "lengths": list(data.lengths),
        "module": module_as_json(module),
        "tokenizer": tokenizer.definition,
    }
    variables = config.model.variables(data.num_classes, keys(config)[0])
    source = bucketed(data.train, asked.batch_size, seed=config.run.seed)
    return assemble(config, data, classifier, source, variables, known=known, shared=shared)


def texts_to_test(known: dict[str, Any], data_dir: Path | None) -> TextSplit:
    """Returns the test split of the data of which a checkpoint says this much.

    Raises:
      DataError: when the data set is not there, or has other classes by now.
    """
    test_file = None if known["test_file"] is None else Path(known["test_file"])
    found = find_texts(known["dataset"], data_dir=data_dir, test_file=test_file)
    if list(found.class_names) != known["class_names"]:
        raise DataError(
            f"{found.name}: its classes are {list(found.class_names)}; wanted those that the "
            f"checkpoint was trained with, {known['class_names']}."
        )
    lengths = tuple(known["lengths"])
    return tokenise(found.read("test"), Tokenizer(known["tokenizer"], lengths[-1]), lengths)[0]


def _check_vocabulary(tokenizer: Tokenizer, size: int, folder: Path) -> None:
    if tokenizer.vocab_size > size:
        raise ConfigError(
            f"{folder}: tokenizer.json numbers {tokenizer.vocab_size:,} tokens, the model has "
            f"embeddings of {size:,}; wanted the model's own tokenizer."
        )
