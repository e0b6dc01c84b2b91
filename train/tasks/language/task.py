"""The task of a run on running text."""

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
    """Returns the data and the model that a config asks for.

    Raises:
      ValueError: when a flag's value cannot be, or the data set, the weights or a run do not fit.
      FileNotFoundError: when there are no such weights.
      ImportError: when a package of the extra `text` is needed and not installed.
    """
    asked, context, stride = config.data, config.model.context, config.stride
    _check_vocabulary(config)
    documents = find_documents(
        asked.dataset, data_dir=asked.data_dir, validation=asked.validation, test=asked.test
    )
    vocabulary = _vocabulary(config, documents)
    model = LanguageModel(config.model.build(vocabulary.size))
    data = language_data(documents, vocabulary, context, stride, asked.train_tokens)
    shared = {"dataset": asked.dataset, "vocabulary": vocabulary.digest}
    known = shared | {
        "tokens": vocabulary.as_json(),
        "context": context,
        "stride": stride,
        "cut": {"validation": asked.validation, "test": asked.test},
        "module": module_as_json(model.module),
    }
    source = packed(
        data.train.tokens,
        context,
        asked.batch_size,
        seed=config.run.seed,
        steps_per_dispatch=config.run.steps_per_dispatch,
    )
    variables = config.model.variables(model, keys(config)[0])
    return assemble(config, data, model, source, variables, known=known, shared=shared)


def text_to_test(known: dict[str, Any], data_dir: Path | None) -> Windows:
    """Returns the test split of the data of which a checkpoint says this much.

    Raises:
      ValueError: when the data set is not there, or has what the vocabulary lacks by now.
    """
    documents = find_documents(known["dataset"], data_dir=data_dir, **known["cut"])
    vocabulary = vocabulary_from_json(known["tokens"])
    return windows_to_test(documents, vocabulary, known["context"], known["stride"])


def _check_vocabulary(config: LanguageConfig) -> None:
    asked, pretrained = config.data.vocabulary, isinstance(config.model, PretrainedDecoderConfig)
    if pretrained != (asked == "pretrained"):
        wanted = "pretrained, as the model is" if pretrained else "characters or pieces"
        raise ConfigError(f"--vocabulary is {asked}; wanted {wanted}.")


def _vocabulary(config: LanguageConfig, documents: DocumentSet) -> Vocabulary:
    """Returns the vocabulary that is asked for.

    Which characters there are is the one thing for which all three splits are looked at.
    """
    if isinstance(config.model, PretrainedDecoderConfig):
        return Pieces.beside(config.model.folder())
    if config.data.vocabulary == "characters":
        splits = (documents.train, documents.validation, documents.test)
        return Characters.of(text for split in splits for text in split)
    return Pieces.trained(documents.train, config.data.vocab_size)
