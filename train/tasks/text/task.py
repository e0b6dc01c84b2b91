"""Tasks of runs on labelled texts."""

from pathlib import Path
from typing import Any

from lcjax._optional import import_optional
from train.data.dataset import DataError
from train.data.text.labelled import Subset, load_texts, tokenize
from train.data.text.length_buckets import TextSplit, bucketed
from train.data.text.tokenizer import Tokenizer
from train.data.text.tsv import find_texts
from train.models.serialization import module_as_json
from train.tasks.base import Task, assemble, keys
from train.tasks.text.config import TextConfig
from train.tasks.text.objective import TextClassifier
from train.validation import ConfigError


def make_task(config: TextConfig) -> Task:
    """Returns the task of a configuration.

    Raises:
      ValueError: if a flag does not fit the data set or the weights.
      FileNotFoundError: if the weights do not exist.
      ImportError: if a package of the extra `text` is not installed.
    """
    for package in ("tokenizers", "safetensors"):
        use = f"Training on texts needs the package {package}, which is missing"
        import_optional(package, use, "lcjax[text]")
    settings, folder = config.data, config.model.folder()
    table = config.model.build(num_classes=1).max_length
    tokenizer = Tokenizer.of(folder, min(settings.lengths[-1], table))
    count = settings.train_examples
    subset = None if count is None else Subset(count, settings.longest)
    data = load_texts(
        settings.dataset,
        tokenizer,
        settings.lengths,
        data_dir=settings.data_dir,
        test_file=settings.test_file,
        validation=settings.validation,
        num_classes=settings.num_classes,
        subset=subset,
    )
    module = config.model.build(data.num_classes)
    classifier = TextClassifier(module)
    _check_vocabulary(tokenizer, module.vocab_size, folder)
    teacher_spec = {"dataset": settings.dataset, "vocabulary": tokenizer.digest}
    data_spec = teacher_spec | {
        "test_file": None if settings.test_file is None else str(settings.test_file),
        "class_names": list(data.class_names),
        "lengths": list(data.lengths),
        "module": module_as_json(module),
        "tokenizer": tokenizer.definition,
    }
    variables = config.model.variables(data.num_classes, keys(config)[0])
    source = bucketed(data.train, settings.batch_size, seed=config.run.seed)
    return assemble(
        config, data, classifier, source, variables, data_spec=data_spec, teacher_spec=teacher_spec
    )


def read_test_split(data_spec: dict[str, Any], data_dir: Path | None) -> TextSplit:
    """Returns the test split of the data that a checkpoint describes.

    Raises:
      DataError: if the data set does not exist, or has other classes now.
    """
    test_file = None if data_spec["test_file"] is None else Path(data_spec["test_file"])
    found = find_texts(data_spec["dataset"], data_dir=data_dir, test_file=test_file)
    if list(found.class_names) != data_spec["class_names"]:
        raise DataError(
            f"{found.name}: its classes are {list(found.class_names)}; expected those of the "
            f"checkpoint, {data_spec['class_names']}."
        )
    lengths = tuple(data_spec["lengths"])
    return tokenize(found.read("test"), Tokenizer(data_spec["tokenizer"], lengths[-1]), lengths)[0]


def _check_vocabulary(tokenizer: Tokenizer, size: int, folder: Path) -> None:
    if tokenizer.vocab_size > size:
        raise ConfigError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size:,} tokens but the model embeds "
            f"{size:,}; expected the model's own tokenizer."
        )
