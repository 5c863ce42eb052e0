"""Packing, against a brute-force packer and against what must hold whatever the documents are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from nanochat.packing import Packer

BOS = 0


def make_documents(lengths: list[int]) -> list[np.ndarray]:
    """<|bos|>, then tokens that name their document and position: every token of all documents is unique."""
    ends = np.cumsum(lengths).tolist()
    return [np.array([BOS, *range(end - length + 1, end)], dtype=np.int32)
            for length, end in zip(lengths, ends)]


def pack_all(documents: list[np.ndarray], row_len: int, crop: bool) -> list[np.ndarray]:
    packer, rows = Packer(row_len, documents), []
    while len(packer):
        rows.append(packer.take(crop))
    return rows


def pack_by_brute_force(documents: list[list[int]], row_len: int, crop: bool) -> list[list[int]]:
    """The same rule by linear search; documents no longer than a row."""
    held, rows = [list(document) for document in documents], []
    while held:
        row = held.pop(0)
        while held and len(row) < row_len:
            room = row_len - len(row)
            fitting = [document for document in held if len(document) <= room]
            if not fitting and not crop:
                break
            longest = max(fitting, key=len) if fitting else min(reversed(held), key=len)
            held.remove(longest)
            row = row + longest[:room]
        rows.append(row)
    return rows


lengths = st.lists(st.integers(1, 20), min_size=1, max_size=60)


@given(lengths, st.booleans())
def test_rows_are_those_of_a_brute_force_search(lengths, crop):
    documents = make_documents(lengths)
    expected = pack_by_brute_force([document.tolist() for document in documents], 20, crop)
    assert [row.tolist() for row in pack_all(documents, 20, crop)] == expected


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40))
def test_padded_rows_hold_every_token_exactly_once(lengths):
    documents = make_documents(lengths)
    rows = pack_all(documents, 16, crop=False)
    assert all(len(row) <= 16 and row[0] == BOS for row in rows)
    tokens = sorted(token for row in rows for token in row.tolist() if token != BOS)
    assert tokens == sorted(token for document in documents for token in document.tolist() if token != BOS)


@given(st.lists(st.integers(1, 16), min_size=1, max_size=40))
def test_padding_never_cuts_a_document(lengths):
    documents = make_documents(lengths)
    pieces = [piece for row in pack_all(documents, 16, crop=False)
              for piece in np.split(row.tolist(), np.flatnonzero(row == BOS)[1:])]
    assert sorted(map(tuple, pieces)) == sorted(map(tuple, documents))


@given(st.lists(st.integers(1, 100), min_size=40, max_size=80))
def test_cropped_rows_are_full_and_start_with_bos(lengths):
    packer = Packer(16, make_documents(lengths))
    while packer.tokens >= 16:
        row = packer.take(crop=True)
        assert len(row) == 16 and row[0] == BOS


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(0, 10), st.booleans())
def test_the_buffered_documents_are_the_whole_state(lengths, taken, crop):
    packer = Packer(16, make_documents(lengths))
    for _ in range(min(taken, len(packer) - 1)):
        if len(packer) > 1:
            packer.take(crop)
    if not len(packer):
        return
    restored = Packer(16, packer.documents())
    assert restored.tokens == packer.tokens
    more = make_documents([5, 30, 2])
    for document in more:
        packer.add(document)
        restored.add(document)
    while len(packer):
        assert np.array_equal(packer.take(crop), restored.take(crop))
    assert not len(restored)


def test_rows_of_two_columns_stay_aligned():
    documents = [np.stack([document, document * 7], axis=1) for document in make_documents([5, 9, 3, 40])]
    for row in pack_all(documents, 12, crop=True):
        assert row.ndim == 2 and np.array_equal(row[:, 0] * 7, row[:, 1])


def test_no_document_waits_for_more_rows_than_there_are_documents_before_it():
    documents = make_documents([20] + [3] * 50)         # only a row's start has room for the first one
    packer = Packer(20, documents[1:31])
    packer.add(documents[0])
    for _ in range(31):
        for document in documents[31:]:
            packer.add(document)
        if documents[0][1] in packer.take(crop=True):
            return
    raise AssertionError("starved")


def test_long_documents_have_their_share_of_every_500_rows():
    random = np.random.default_rng(0)
    row_len, buffer, rows = 257, 128, 3000
    packer, shares, seen_long, seen = Packer(row_len), [], 0, 0
    for _ in range(rows):
        while len(packer) < buffer:
            length = int(random.lognormal(4.9, 1.0)) + 2
            is_long = length > row_len                  # about a sixth of documents, half of the tokens
            seen, seen_long = seen + length, seen_long + length * is_long
            packer.add(np.full(length, int(is_long), dtype=np.int32))
        shares.append(packer.take(crop=True).mean())
    population = seen_long / seen
    windows = np.convolve(shares, np.ones(500) / 500, mode="valid")
    assert 0.3 < population < 0.7
    assert abs(windows - population).max() < 0.12, (population, windows.min(), windows.max())
