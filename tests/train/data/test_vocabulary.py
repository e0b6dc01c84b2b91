"""Characters and pieces as tokens, and the texts that they are made of."""

import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.prepared import prepare_documents, prepare_texts
from train.data.dataset import DataError
from train.data.text.documents import find_documents
from train.data.text.vocabulary import Characters, Pieces, VocabularyError, vocabulary_from_json

TEXT = "Where shall we three meet again\nIn thunder, lightning, or in rain?\n" * 20


@pytest.fixture(scope="module")
def pieces():
    pytest.importorskip("tokenizers")
    return Pieces.trained([TEXT], 300)


def test_characters_are_numbered_in_order_and_come_back():
    vocabulary = Characters.of(["cab", "b d"])
    assert vocabulary.characters == "\n abcd" and vocabulary.size == 6
    tokens = vocabulary.encode("bad cab")
    assert tokens.dtype == np.int32 and tokens.tolist() == [3, 2, 5, 1, 4, 2, 3]
    assert vocabulary.decode(tokens) == "bad cab"
    assert vocabulary_from_json(vocabulary.as_json()) == vocabulary
    assert vocabulary.decode(vocabulary.pack(["ab", "cd"])) == "ab\ncd"


def test_characters_that_the_vocabulary_lacks_are_named():
    with pytest.raises(
        VocabularyError, match=r"the text has 'xé', which the vocabulary lacks; expected"
    ):
        Characters.of(["abc"]).encode("éx abc x".replace(" ", ""))


def test_pieces_hold_every_text_and_come_back(pieces):
    assert 257 < pieces.size <= 300
    for text in (TEXT, "naïve 漢字 \U0001f600\n\t", " two  blanks "):
        assert pieces.decode(pieces.encode(text)) == text
    assert len(pieces.encode(TEXT)) < len(TEXT) / 2
    again = vocabulary_from_json(pieces.as_json())
    assert again.encode(TEXT).tolist() == pieces.encode(TEXT).tolist()
    packed = pieces.pack(["rain", "again"])
    assert pieces.decode(packed) == "rain<|endoftext|>again"


def test_text_after_other_text_begins_with_the_space_between_them():
    """Decoders of words drop the space before the first one."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"king": 0, "lear": 1}, "king"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words = Pieces(made.to_str())
    assert words.decode_after(words.encode("king"), words.encode("lear king")) == " lear king"
    assert Characters("ab").decode_after([0, 1], np.array([1, 0])) == "ba"


@pytest.mark.slow
def test_pieces_are_learned_alike_in_every_process(pieces):
    code = (
        "from train.data.text.vocabulary import Pieces;"
        "from tests.train.data.test_vocabulary import TEXT;"
        "print(Pieces.trained([TEXT], 300).digest)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == pieces.digest != Pieces.trained([TEXT], 290).digest


def test_a_file_is_cut_in_three_without_a_gap(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    found = find_documents(str(path), validation=0.1, test=0.2)
    assert found.train + found.validation + found.test == [
        TEXT[: len(found.train[0])],
        TEXT[len(found.train[0]) : -len(found.test[0])],
        TEXT[-len(found.test[0]) :],
    ]
    assert len(found.test[0]) == round(0.2 * len(TEXT))
    assert len(found.validation[0]) == pytest.approx(0.1 * 0.8 * len(TEXT), abs=1)


@pytest.mark.parametrize(
    ("name", "held", "message"),
    [
        ("a.txt", "", "a.txt is empty; expected a text to learn from"),
        ("a.txt", " \n ", "a.txt is empty; expected a text to learn from"),
        ("a.txt", b"\xff\xfe", "a.txt cannot be read: .*expected a UTF-8 file"),
        ("b.txt", None, "b.txt cannot be read: .*No such file"),
        ("a.txt", "ab", "the text to (validate|test on) is empty; expected a longer one"),
        (
            "no such/set/at all",
            None,
            "is not the name of a data set; expected the path of a text f",
        ),
    ],
)
def test_texts_that_are_not_there_are_an_error(tmp_path, monkeypatch, name, held, message):
    monkeypatch.chdir(tmp_path)
    if held is not None:
        held = held if isinstance(held, bytes) else held.encode()
        (tmp_path / name).write_bytes(held)
    with pytest.raises(DataError, match=message):
        find_documents(name, data_dir=tmp_path, validation=0.05, test=0.05)


def test_sets_have_their_own_splits_or_parts_of_train(tmp_path):
    prepare_documents(tmp_path, "plays", splits={"train": ["a" * 50, "b" * 50], "test": ["c" * 30]})
    found = find_documents("plays", data_dir=tmp_path, validation=0.1, test=0.1)
    assert (found.train, found.validation, found.test) == (["a" * 50], ["b" * 50], ["c" * 30])
    assert found.name == "plays/1.0.0"
    rows = [(f"{i}", "positive") for i in range(10)]
    prepare_texts(tmp_path, "labelled", splits={"train": rows})
    found = find_documents("labelled", data_dir=tmp_path, validation=0.2, test=0.2)
    assert sorted(found.train + found.validation + found.test) == [text for text, _ in rows]
    assert (len(found.train), len(found.validation), len(found.test)) == (6, 2, 2)
    prepare_texts(tmp_path, "pairs", splits={"train": rows}, names="first second")
    with pytest.raises(DataError, match="pairs/1.0.0 is not a set of texts: .*expected one text"):
        find_documents("pairs", data_dir=tmp_path, validation=0.2, test=0.2)
