"""The tokenizer keeps every text, knows its own files, and its scripts run offline."""

import base64
import json
import os
from pathlib import Path
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer
from scripts import tok_eval, tok_train

TEXTS = 3 * ["The quick brown fox isn't quick enough: 1,234 times!\n"]
TEXTS += 3 * ["naïve café, 日本語 日本, 🙂🙂 <|bos|>\n"]
TOKENIZER = Tokenizer.train(TEXTS, 400)

pieces = st.sampled_from([*SPECIAL_TOKENS, "<|", "bos", "|>", " ", "a", "é"])
texts = st.text(max_size=80) | st.lists(pieces).map("".join)


@given(texts)
def test_every_text_survives_a_round_trip_and_never_becomes_a_special_token(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode_bytes(ids) == text.encode() and TOKENIZER.decode(ids) == text
    assert all(id < TOKENIZER.vocab_size - len(SPECIAL_TOKENS) for id in ids)
    assert TOKENIZER.encode_batch([text, "a", text]) == [ids, TOKENIZER.encode("a"), ids]


def test_specials_are_the_last_ids_in_order_and_decode_to_their_names():
    first = TOKENIZER.vocab_size - len(SPECIAL_TOKENS)
    assert [TOKENIZER.special(name) for name in SPECIAL_TOKENS] == list(range(first, TOKENIZER.vocab_size))
    assert TOKENIZER.bos == TOKENIZER.special("<|bos|>")
    ids = [TOKENIZER.bos, *TOKENIZER.encode("a"), TOKENIZER.special("<|user_end|>")]
    assert TOKENIZER.decode(ids) == "<|bos|>a<|user_end|>"
    with pytest.raises(KeyError):
        TOKENIZER.special("<|nonsense|>")


def test_token_bytes_are_raw_lengths_and_zero_for_specials():
    lengths = TOKENIZER.token_bytes()
    assert len(lengths) == TOKENIZER.vocab_size and lengths[-9:] == [0] * 9
    assert lengths[:256] == [1] * 256              # of lone bytes above 0x7F too, which decode to U+FFFD
    for text in TEXTS:
        assert sum(lengths[id] for id in TOKENIZER.encode(text)) == len(text.encode())


def test_the_pattern_is_the_one_that_rustbpe_scans_by_hand():
    import rustbpe
    assert rustbpe.PATTERN == SPLIT_PATTERN


def test_a_saved_tokenizer_loads_as_the_same_one_and_tiktoken_reads_its_ranks(tmp_path):
    TOKENIZER.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.hash == TOKENIZER.hash and loaded.encode(TEXTS[-1]) == TOKENIZER.encode(TEXTS[-1])
    lines = (tmp_path / "ranks.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    plain = tiktoken.Encoding("plain", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
    assert plain.encode(TEXTS[0]) == loaded.encode(TEXTS[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ranks.tiktoken", "tokenizer.json"]


def test_another_text_or_size_is_another_hash():
    smaller = Tokenizer.train(TEXTS, TOKENIZER.vocab_size - 1)
    others = [smaller, Tokenizer.train(TEXTS[:3], 400), Tokenizer.train(["something else"] * 9, 280)]
    assert len({TOKENIZER.hash, *(other.hash for other in others)}) == 4
    assert Tokenizer.train(TEXTS, 400).hash == TOKENIZER.hash


def swap_two_ranks(folder):
    lines = (folder / "ranks.tiktoken").read_text().splitlines()
    (token, rank), (next_token, next_rank) = lines[300].split(), lines[301].split()
    lines[300:302] = [f"{next_token} {rank}", f"{token} {next_rank}"]
    (folder / "ranks.tiktoken").write_text("\n".join(lines) + "\n")


def rename_a_special(folder):
    config = json.loads((folder / "tokenizer.json").read_text())
    config["special_tokens"][3] = "<|impostor|>"
    (folder / "tokenizer.json").write_text(json.dumps(config))


@pytest.mark.parametrize("damage, message", [
    (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer in"),
    (lambda folder: (folder / "ranks.tiktoken").unlink(), "cannot be read"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be read"),
    (lambda folder: (folder / "tokenizer.json").write_text("[]"), "cannot be read"),
    (lambda folder: (folder / "ranks.tiktoken").write_text("YQ== 0\nYQ== 1\n"), "cannot be read"),
    (lambda folder: (folder / "ranks.tiktoken").write_text("nonsense"), "cannot be read"),
    (swap_two_ranks, "does not match its hash"),
    (rename_a_special, "does not match its hash"),
])
def test_a_missing_or_damaged_tokenizer_is_refused_with_one_line(tmp_path, capsys, damage, message):
    TOKENIZER.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        Tokenizer.load(tmp_path)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_a_vocabulary_without_room_is_refused():
    with pytest.raises(ValueError, match="256 bytes are tokens too"):
        Tokenizer.train(TEXTS, 264)
    assert Tokenizer.train(TEXTS, 265).vocab_size == 265


def write_corpus(folder: Path, documents: list[str]) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return path


def run(script, *flags: str) -> None:
    script.main(script.parser().parse_args([str(flag) for flag in flags]))


def read_log(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tok_train_and_tok_eval_run_end_to_end_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    corpus = write_corpus(tmp_path, [f"{TEXTS[i % 6]} document {i}" for i in range(60)])
    run(tok_train, "--data", corpus, "--vocab-size=350")
    run(tok_eval)
    tokenizer = Tokenizer.load()
    printed = capsys.readouterr().out
    assert tokenizer.vocab_size == 350 and "gpt4" in printed
    trained, = read_log(tmp_path / "base/tokenizer/tok_train.jsonl")
    assert trained["hash"] == tokenizer.hash and trained["documents"] < 60 and trained["mb_per_second"] > 0
    evaluated = read_log(tmp_path / "base/tokenizer/tok_eval.jsonl")
    text = tok_eval.samples()["chinese"]
    ratio = len(text.encode()) / len(tokenizer.encode(text))
    assert evaluated[0]["bytes_per_token"]["chinese"] == round(ratio, 3)
    assert [each.get("vocab_size") for each in evaluated] == [350, 50257, 100277]


@pytest.mark.skipif("TIKTOKEN_CACHE_DIR" not in os.environ, reason="needs a folder with tiktoken's encodings")
@pytest.mark.parametrize("label, name", [("gpt2", "gpt2"), ("gpt4", "cl100k_base")])
def test_the_counts_of_gpt2_and_gpt4_are_those_of_tiktoken(label, name):
    encoding = tiktoken.get_encoding(name)
    counts = tuple(len(encoding.encode_ordinary(text)) for text in tok_eval.samples().values())
    assert tok_eval.OTHERS[label] == (encoding.n_vocab, counts)


def test_tok_train_reads_no_more_than_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    corpus = write_corpus(tmp_path, [f"{i:03d} " * 1000 for i in range(50)])
    run(tok_train, "--data", corpus, "--vocab-size=300", "--doc-cap=100", "--max-chars=450")
    trained, = read_log(tmp_path / "base/tokenizer/tok_train.jsonl")
    assert (trained["documents"], trained["chars"], trained["bytes"]) == (5, 450, 450)


@pytest.mark.parametrize("flags, message", [
    (["--vocab-size=264"], "--vocab-size=264 is less than"),
    (["--max-chars=0"], "--max-chars is 0, must be at least 1"),
    (["--doc-cap=-1"], "--doc-cap is -1, must be at least 1"),
    (["--data=/nonexistent"], "does not exist"),
])
def test_tok_train_refuses_what_cannot_work(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        run(tok_train, *flags)
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "tokenizer").exists()


def test_tok_train_refuses_documents_without_a_character(tmp_path, monkeypatch, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    (tmp_path / "shards").mkdir()
    for name in ("train_00000.parquet", "val_00000.parquet"):
        pq.write_table(pa.table({"text": ["", ""]}), tmp_path / "shards" / name)
    with pytest.raises(SystemExit) as stopped:
        run(tok_train, "--data", tmp_path / "shards")
    assert stopped.value.code == 2 and "hold no text" in capsys.readouterr().err
