"""Tasks of language-model runs."""

from pathlib import Path
from typing import Any

from train.data.text.documents import DocumentSet, find_documents
from train.data.text.language import language_data, windows_to_test
from train.data.text.vocabulary import Characters, Pieces, Vocabulary, vocabulary_from_json
from train.data.text.windows import Windows, packed
from train.models.serialization import module_as_json
from train.tasks.base import Task, assemble, keys
from train.tasks.language.config import LanguageConfig
from train.tasks.language.model import PretrainedDecoderConfig
from train.tasks.language.objective import LanguageModel
from train.validation import ConfigError


def make_task(config: LanguageConfig) -> Task:
    """Returns the task of a configuration.

    Raises:
      ValueError: if a flag does not fit the data set or the weights.
      FileNotFoundError: if the weights do not exist.
      ImportError: if a package of the extra `text` is needed and not installed.
    """
    settings, context, stride = config.data, config.model.context, config.stride
    _check_vocabulary(config)
    documents = find_documents(
        settings.dataset,
        data_dir=settings.data_dir,
        validation=settings.validation,
        test=settings.test,
    )
    vocabulary = _vocabulary(config, documents)
    model = LanguageModel(config.model.build(vocabulary.size))
    data = language_data(documents, vocabulary, context, stride, settings.train_tokens)
    teacher_spec = {"dataset": settings.dataset, "vocabulary": vocabulary.digest}
    data_spec = teacher_spec | {
        "tokens": vocabulary.as_json(),
        "context": context,
        "stride": stride,
        "cut": {"validation": settings.validation, "test": settings.test},
        "module": module_as_json(model.module),
    }
    source = packed(
        data.train.tokens,
        context,
        settings.batch_size,
        seed=config.run.seed,
        steps_per_dispatch=config.run.steps_per_dispatch,
    )
    variables = config.model.variables(model, keys(config)[0])
    return assemble(
        config, data, model, source, variables, data_spec=data_spec, teacher_spec=teacher_spec
    )


def read_test_split(data_spec: dict[str, Any], data_dir: Path | None) -> Windows:
    """Returns the test split of the data that a checkpoint describes.

    Raises:
      ValueError: if the data set does not exist, or now has characters that the vocabulary lacks.
    """
    documents = find_documents(data_spec["dataset"], data_dir=data_dir, **data_spec["cut"])
    vocabulary = vocabulary_from_json(data_spec["tokens"])
    return windows_to_test(documents, vocabulary, data_spec["context"], data_spec["stride"])


def _check_vocabulary(config: LanguageConfig) -> None:
    name, pretrained = config.data.vocabulary, isinstance(config.model, PretrainedDecoderConfig)
    if pretrained != (name == "pretrained"):
        expected = "pretrained, like the model" if pretrained else "characters or pieces"
        raise ConfigError(f"--vocabulary is {name}; expected {expected}.")


def _vocabulary(config: LanguageConfig, documents: DocumentSet) -> Vocabulary:
    """Returns the configured vocabulary.

    The set of characters is that of all three splits; nothing else is read from the test split.
    """
    if isinstance(config.model, PretrainedDecoderConfig):
        return Pieces.from_folder(config.model.folder())
    if config.data.vocabulary == "characters":
        splits = (documents.train, documents.validation, documents.test)
        return Characters.of(text for split in splits for text in split)
    return Pieces.trained(documents.train, config.data.vocab_size)
