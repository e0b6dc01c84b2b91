"""Labelled texts: TSV files, prepared sets, tokens, and what is wrong with them."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.prepared import prepare_texts
from tests.helpers.tiny_bert import LONGEST, NAMES, make_folder, texts, write_tsv
from train.data.dataset import DataError, hold_out
from train.data.text.labelled import Subset, load_texts
from train.data.text.tokenizer import Tokenizer
from train.data.text.tsv import find_texts
from train.data.tfds import locate as tfds_find
from train.validation import ConfigError

REAL = os.environ.get("TFDS_DATA_DIR")
ROWS = texts(100)
LENGTHS = (8, 16, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.of(folder, LONGEST)


@pytest.fixture
def tsv(tmp_path):
    return write_tsv(tmp_path / "a.tsv", ROWS)


def held(split):
    return sorted((text, int(label)) for text, label in zip(split.texts, split.labels, strict=True))


def numbered(rows):
    return sorted((text, ["negative", "positive"].index(label)) for text, label in rows)


# TSV files.


def test_a_tsv_file_is_cut_in_train_and_a_stratified_fifth_to_test(tsv):
    found = find_texts(str(tsv))
    assert (found.name, found.class_names) == (str(tsv), ("negative", "positive"))
    train, test = found.read("train"), found.read("test")
    assert (len(train), len(test)) == (80, 20)
    assert np.bincount(test.labels).tolist() == [10, 10]
    assert sorted(held(train) + held(test)) == numbered(ROWS)
    assert held(find_texts(str(tsv)).read("test")) == held(test)


def test_a_test_file_takes_the_place_of_the_fifth(tsv, tmp_path):
    other = write_tsv(tmp_path / "b.tsv", texts(6, seed=1))
    found = find_texts(str(tsv), test_file=other)
    assert held(found.read("train")) == numbered(ROWS)
    assert held(found.read("test")) == numbered(texts(6, seed=1))
    assert found.tested_on == str(other)


def test_a_first_line_may_be_a_header_and_labels_are_sorted_as_numbers(tmp_path):
    rows = [("a film", "10"), ("a plot", "2"), ("a cast", "2"), ("a scene", "10")]
    path = write_tsv(tmp_path / "a.tsv", [("sentence", "label"), *rows])
    found = find_texts(str(path), test_file=path)
    assert found.class_names == ("2", "10")
    assert len(found.read("train")) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("good\tyes\n \tno\n", "line 2: the text is empty; expected a text, a tab and a label"),
        ("good\tyes\nbad\n", "line 2: 'bad'; expected a text, a tab and a label"),
        ("good\tyes\nbad\t\n", r"line 2: 'bad\\t'; expected a text"),
        ("good\tyes\nbad\tno\tno\n", "line 2: .*; expected a text, a tab and a label"),
        ("good\tyes\n\nbad\tno\n", "line 2: ''; expected a text, a tab and a label"),
        (
            "good\tyes\nfine\tyes\n",
            r"every label is \('yes',\); expected at least two different ones",
        ),
        ("text\tlabel\n", "has no texts; expected lines of a text, a tab and a label"),
        ("good\tyes\nbad\tno\n", "2 texts are too few for a test split; give a --test-file"),
        ("g\xf6\tyes".encode("latin-1"), "cannot be read: .*; expected a UTF-8 file"),
    ],
)
def test_what_is_wrong_with_a_tsv_file_is_told_with_the_line(tmp_path, content, message):
    path = tmp_path / "a.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=rf"a\.tsv.*{message}"):
        find_texts(str(path)).read("test")


def test_an_unknown_label_is_an_error_that_lists_the_known(tsv, tmp_path):
    other = write_tsv(tmp_path / "b.tsv", [("a film", "positive"), ("a plot", "neutral")])
    found = find_texts(str(tsv), test_file=other)
    with pytest.raises(
        DataError, match=r"b.tsv, line 2: the label is 'neutral'; expected one of \("
    ):
        found.read("test")


def test_sets_that_are_not_there_say_what_else_may_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_find, "_reachable", lambda: False)
    with pytest.raises(DataError, match="a.tsv cannot be read: .*No such file"):
        find_texts(str(tmp_path / "a.tsv"))
    with pytest.raises(
        DataError, match="'a b' is not the name of a data set; expected a .tsv file"
    ):
        find_texts("a b", data_dir=tmp_path)
    with pytest.raises(DataError, match="(?s)'imdb_reviews' was not found .*tfds build imdb"):
        find_texts("imdb_reviews", data_dir=tmp_path)
    with pytest.raises(
        DataError, match="--test-file is b.tsv, but 'glue/sst2' has its own test split"
    ):
        find_texts("glue/sst2", test_file=Path("b.tsv"))


# Sets prepared by TFDS.


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    prepare_texts(root, "plain", splits={"train": ROWS[:8], "test": ROWS[8:12]})
    withheld = {"train": ROWS[:8], "validation": ROWS[8:12], "test?": ROWS[:2]}
    prepare_texts(root, "withheld", splits=withheld)
    prepare_texts(root, "pairs", splits={"train": ROWS[:2], "test": ROWS[:2]}, names="first second")
    return root


def test_a_prepared_set_holds_the_texts_that_went_in(tfds_dir):
    found = find_texts("plain", data_dir=tfds_dir)
    assert found.name == "plain/1.0.0" and found.class_names == ("negative", "positive")
    assert held(found.read("train")) == numbered(ROWS[:8])
    assert held(found.read("test")) == numbered(ROWS[8:12])
    assert found.tested_on == "its test split"


def test_withheld_test_labels_give_way_to_the_validation_split(tfds_dir):
    found = find_texts("withheld", data_dir=tfds_dir)
    assert held(found.read("test")) == numbered(ROWS[8:12])
    assert found.tested_on == "its validation split, as it has no test split with labels"


def test_a_set_of_several_texts_is_an_error(tfds_dir):
    with pytest.raises(DataError, match=r"pairs/1.0.0 is not a set of labelled texts: .*'first'"):
        find_texts("pairs", data_dir=tfds_dir)


def test_sst2_is_tested_on_its_validation_split(tokenizer):
    if not REAL or not tfds_find.locate("glue/sst2", Path(REAL)):
        pytest.skip("glue/sst2 is not prepared in TFDS_DATA_DIR")
    found = find_texts("glue/sst2", data_dir=REAL)
    assert found.class_names == ("negative", "positive")
    assert "validation split" in found.tested_on
    assert len(found.read("test")) == 872


# As tokens.


def test_tokens_are_the_tokenizers_own_with_its_ends_and_no_padding(folder, tokenizer):
    library = pytest.importorskip("tokenizers")
    own = library.Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_padding()
    chosen = [text for text, _ in ROWS[:20]]
    tokens, shortened = tokenizer.encode(chosen)
    assert [each.tolist() for each in tokens] == [own.encode(text).ids for text in chosen]
    assert shortened == 0 and tokens[0][0] == own.token_to_id("[CLS]")
    assert tokens[0].dtype == np.int32


def test_a_text_longer_than_the_table_is_cut_and_that_is_said_once(tokenizer, tmp_path):
    rows = [*ROWS, (" ".join(["film"] * 40), "positive"), (" ".join(["plot"] * 41), "negative")]
    path = write_tsv(tmp_path / "a.tsv", rows)
    with pytest.warns(UserWarning) as said:
        data = load_texts(str(path), tokenizer, LENGTHS, test_file=path)
        whole = data.test()
    assert len(said) == 1
    assert "texts are longer than 24 tokens and are truncated" in str(said[0].message)
    assert max(len(tokens) for tokens in whole.tokens) == LONGEST
    assert len(whole) == len(rows)
    longest = whole.tokens[-1]
    assert longest[-1] == whole.tokens[0][-1], "a text that is cut has its last special token"


def test_validation_is_cut_from_train_and_a_subset_is_fixed(tsv, tokenizer):
    whole = load_texts(str(tsv), tokenizer, LENGTHS, validation=0.25)
    assert (len(whole.train), len(whole.validation), len(whole.test())) == (60, 20, 20)
    part = load_texts(str(tsv), tokenizer, LENGTHS, validation=0.25, subset=Subset(30))
    assert len(part.train) == 30 and part.validation.labels.tolist() == (
        whole.validation.labels.tolist()
    )
    chosen = {tokens.tobytes() for tokens in part.train.tokens}
    assert chosen < {tokens.tobytes() for tokens in whole.train.tokens}
    assert not chosen & {tokens.tobytes() for tokens in whole.validation.tokens}
    again = load_texts(str(tsv), tokenizer, LENGTHS, validation=0.25, subset=Subset(30))
    assert {tokens.tobytes() for tokens in again.train.tokens} == chosen
    with pytest.raises(ConfigError, match="--train-examples is 61, but there are only 60 texts"):
        load_texts(str(tsv), tokenizer, LENGTHS, validation=0.25, subset=Subset(61))
    with pytest.raises(DataError, match="num_classes is 3, but its labels have 2 classes"):
        load_texts(str(tsv), tokenizer, LENGTHS, num_classes=3)
    with pytest.raises(DataError, match="validation is 0.001, 0 of 80 training texts"):
        hold_out(find_texts(str(tsv)).read("train"), 0.001, 0, "a", "texts")


def test_the_longest_texts_are_longer_than_all_that_are_left(tmp_path, tokenizer):
    lines = [f"{f'{NAMES[0]} ' * count}\t{count % 2}" for count in range(1, 21)]
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n")
    subset = Subset(5, longest=True)
    data = load_texts(str(tmp_path / "a.tsv"), tokenizer, (64,), validation=0.25, subset=subset)
    whole = load_texts(str(tmp_path / "a.tsv"), tokenizer, (64,), validation=0.25)
    lengths = sorted((len(tokens) for tokens in whole.train.tokens), reverse=True)
    assert sorted((len(tokens) for tokens in data.train.tokens), reverse=True) == lengths[:5]


def test_what_it_says_of_the_texts(tsv, tokenizer):
    data = load_texts(str(tsv), tokenizer, LENGTHS)
    assert data.about == (
        "2 classes, texts padded to 8, 16, 24 tokens; tested on a fixed fifth of the file"
    )
    assert data.example.shape == (16,) and data.each == "a text of 16 tokens"


def test_a_folder_without_a_tokenizer_or_with_a_broken_one_is_an_error(tmp_path):
    pytest.importorskip("tokenizers")
    with pytest.raises(DataError, match="tokenizer.json does not exist; expected the model's to"):
        Tokenizer.of(tmp_path, 8)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="tokenizer.json is not a valid tokenizer"):
        Tokenizer.of(tmp_path, 8).encode(["a film"])
