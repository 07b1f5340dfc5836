"""Bounded work: no call of a tokenizer gets a longer text than the limit, and tokens stay those of the whole text."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samples.tiny import tiny_tokenizer
from winning_tickets.data import encode as encoding
from winning_tickets.data import readers, squad, token_cache, tokenizing
from winning_tickets.data.corpora import CorpusText, load_corpus, load_text
from winning_tickets.data.records import Answers, Split
from winning_tickets.data.token_labels import encode_words
from winning_tickets.runs.errors import ContentError

LIMIT = 64
WORDS = [f"w{index}" for index in range(40)]
LONG = " ".join(WORDS * 20)


@pytest.fixture
def tokenizer() -> Any:
    return tiny_tokenizer([*WORDS, "."])


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> list[int]:
    """Set small limits; the lengths of all texts that the tokenizer is given are appended to the list."""
    lengths: list[int] = []
    for name in ("LONGEST_TEXT", "LONGEST_WHOLE", "CHARACTERS_A_CALL"):
        monkeypatch.setattr(tokenizing, name, LIMIT)
    monkeypatch.setattr(tokenizing.cut, "__defaults__", (LIMIT,))
    monkeypatch.setattr(encoding, "LONGEST_WHOLE", LIMIT)
    kind = type(tokenizer)
    call = kind.__call__

    def watched(self: Any, *texts: Any, **options: Any) -> Any:
        for column in texts:
            many = [column] if isinstance(column, str) else column
            lengths.extend(map(len, many))
            assert len(many) == 1 or sum(map(len, many)) <= LIMIT
        return call(self, *texts, **options)

    monkeypatch.setattr(kind, "__call__", watched)
    return lengths


@given(st.text(st.sampled_from("ab .\n\t\u3000é漢"), max_size=80), st.integers(1, 20))
def test_pieces_are_the_text(text: str, limit: int) -> None:
    pieces = list(tokenizing.cut(text, limit))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= limit for piece in pieces) or text == ""
    for piece, following in itertools.pairwise(pieces):
        # A piece of full length has no white space to be cut at; others end before one.
        assert following[0].isspace() or len(piece) == limit


@given(st.text(st.sampled_from("ab é漢\r\n"), max_size=200), st.integers(3, 20), st.integers(1, 30))
def test_a_file_is_read_in_the_pieces_of_its_lines(text: str, limit: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing.cut, "__defaults__", (limit,))
        patch.setattr(readers, "_BLOCK", block)
        path = Path(tempfile.mkdtemp()) / "text.txt"
        path.write_bytes(text.encode())
        found = [piece for piece in readers.read_pieces(path) if piece]
        whole = [piece for line in readers.split_lines(text) for piece in tokenizing.cut(line) if piece]
    assert found == whole


@pytest.mark.usefixtures("longest")
def test_the_tokens_of_one_long_line_are_those_of_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    monkeypatch.setenv("WINNING_TICKETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "one.txt"
    path.write_text(LONG)
    whole = tokenizer.convert_tokens_to_ids(LONG.split())
    lines = CorpusText.of("given", "train", lambda: [LONG])
    for corpus in (load_corpus(str(path), "train"), lines):
        assert max(map(len, corpus.lines)) <= LIMIT
        assert token_cache.tokenize(corpus, tokenizer).tokens.tolist() == whole
    assert load_text(str(path), "train") == LONG


def test_no_call_gets_more_than_the_limit(tokenizer: Any, longest: list[int]) -> None:
    split = Split(([LONG, *WORDS], ["w1 w2", *WORDS]), [0] * 41)
    found = encoding.encode(split, tokenizer, 12)
    assert len(found) == 41
    assert found.columns["input_ids"][0][1:5] == tokenizer.convert_tokens_to_ids(WORDS[:4])
    words = Split(([WORDS * 20, WORDS[:3]],), [[0] * 800, [0, 1, 2]])
    assert [len(ids) for ids in encode_words(words, tokenizer, 12).columns["input_ids"]] == [12, 5]
    ids = encoding.encoded_whole(tokenizer, LONG).tolist()
    prefix, suffix = encoding.special_tokens(tokenizer)
    assert ids == [*prefix, *tokenizer.convert_tokens_to_ids(LONG.split()), *suffix]
    assert max(longest) <= LIMIT
    # On the left, the end of a text is what is kept.
    tokenizer.truncation_side = "left"
    last = encoding.encode(Split(([LONG],), [0]), tokenizer, 6).columns["input_ids"][0]
    assert last[1:-1] == tokenizer.convert_tokens_to_ids(WORDS[-4:])


@pytest.mark.usefixtures("longest")
def test_a_context_is_refused_where_it_is_too_long(tokenizer: Any) -> None:
    split = Split((["w1 w2", "w1 w2"], ["w3", LONG]), [Answers(("w3",), (0,))] * 2)
    with pytest.raises(ContentError, match=r"The context of question 2 has [\d,]+ characters, and at most 64 are"):
        squad.encode_windows(split, tokenizer, 16, 4)


def test_pieces_keep_tokens_of_byte_level_bpe() -> None:
    """A space belongs to the word after it, so a piece begins with it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    text = "The cat, which sat  there; it's on (the) mat.\n\n And don't  move 123 times " * 5
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(
        [text],
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    for limit in (20, 33, 70):
        pieces = (made.encode(piece).ids for piece in tokenizing.cut(text, limit))
        assert list(itertools.chain.from_iterable(pieces)) == made.encode(text).ids
