"""Loaders: what is trained on, where it goes on after a stop, and that ranks and batches do not change it."""

import gc
import json
import math
import random
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from itertools import accumulate
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from nanochat.chat import render_conversation
from nanochat.dataloader import BUFFER, ChatLoader, PretrainLoader, validation
from nanochat.packing import Packer
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

ROWS, T = 3, 64


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer([bytes([i]) for i in range(256)])


def make_shards(folder: Path, documents: list[str], shards: int = 2, row_group: int = 50) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"train_{i:05d}.parquet" for i in range(shards)]
    for i, path in enumerate(paths):
        table = pa.table({"text": pa.array(documents[i::shards], pa.string())})
        pq.write_table(table, path, row_group_size=row_group)
    return paths


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    dice = random.Random(1)
    documents = [f"#{i}:" + "abcdefghij"[i % 10] * int(dice.lognormvariate(3.3, 1)) for i in range(700)]
    return make_shards(tmp_path_factory.mktemp("shards"), documents)


@pytest.fixture(scope="module")
def conversations():
    dice = random.Random(2)
    made = []
    for i in range(150):
        answer = [{"type": "text", "text": f"answer {i}"}, {"type": "python", "text": f"{i}+1"},
                  {"type": "python_output", "text": str(i + 1)}]
        made.append({"messages": [{"role": "user", "content": f"question {i} " + "why " * dice.randrange(12)},
                                  {"role": "assistant", "content": answer}]})
    return made


def take(loader, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [tuple(tensor.clone() for tensor in next(loader)) for _ in range(count)]


def same(one, two) -> bool:
    tensors = [[tensor for batch in batches for tensor in batch] for batches in (one, two)]
    return len(one) == len(two) and all(map(torch.equal, *tensors))


def make_loader(kind: str, request, tokenizer, **options):
    if kind == "pretrain":
        return PretrainLoader(tokenizer, request.getfixturevalue("shards"), ROWS, T, **options)
    options["crop"] = kind == "packed chat"
    return ChatLoader(tokenizer, request.getfixturevalue("conversations"), ROWS, T, **options)


both = pytest.mark.parametrize("kind", ["pretrain", "chat", "packed chat"])


# ---- pretraining rows

def test_pretraining_rows_are_full_and_start_with_bos(tokenizer, shards):
    with PretrainLoader(tokenizer, shards, ROWS, T, slots=2) as loader:
        for inputs, targets in take(loader, 100):
            assert inputs.shape == targets.shape == (ROWS, T)
            assert (inputs.dtype, targets.dtype) == (torch.int32, torch.int64)
            assert (inputs[:, 0] == tokenizer.bos).all() and (targets >= 0).all()
            assert torch.equal(inputs[:, 1:].long(), targets[:, :-1])


def test_every_epoch_reads_every_document_once(tokenizer, tmp_path, monkeypatch):
    documents, added, add = [f"<{i}>" for i in range(200)], Counter(), Packer.add

    def record(packer, document):
        added[bytes(document[1:].tolist()).decode()] += 1
        add(packer, document)

    monkeypatch.setattr(Packer, "add", record)
    with PretrainLoader(tokenizer, make_shards(tmp_path, documents, row_group=20), 1, T, slots=3) as loader:
        while any(stream["position"]["epoch"] < 5 for stream in loader.state()["streams"].values()):
            next(loader)
    assert set(added) == set(documents)
    assert min(added.values()) >= 5
    assert max(added.values()) - min(added.values()) <= 2           # one slot is a bit ahead of another


def test_user_text_never_becomes_a_special_token(tokenizer, tmp_path, conversations):
    text = "".join(SPECIAL_TOKENS) + "<|endoftext|>"
    specials = {tokenizer.special(name) for name in SPECIAL_TOKENS} - {tokenizer.bos}
    paths = make_shards(tmp_path, [text] * 20)
    with PretrainLoader(tokenizer, paths, ROWS, 256) as loader:
        inputs, _ = next(loader)
        assert not specials & set(inputs.flatten().tolist())
    inputs, _, _ = validation(tokenizer, paths, ROWS, 256).batches[0]
    assert not specials & set(inputs.flatten().tolist())
    conversation = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}
    with ChatLoader(tokenizer, [conversation], 1, 1024) as loader:
        counts = Counter(next(loader)[0].flatten().tolist())
    assert counts[tokenizer.special("<|user_end|>")] == counts[tokenizer.special("<|assistant_end|>")] >= 1
    assert counts[tokenizer.special("<|python_start|>")] == 0


def test_long_documents_keep_their_share_through_the_loader(tokenizer, tmp_path):
    dice = random.Random(3)
    documents = ["L" * dice.randrange(300, 600) if dice.random() < 0.1 else "s" * dice.randrange(10, 60)
                 for _ in range(4000)]
    population = sum(len(text) for text in documents if text[0] == "L") / sum(map(len, documents))
    with PretrainLoader(tokenizer, make_shards(tmp_path, documents, row_group=1000), 500, T) as loader:
        for inputs, _ in take(loader, 5):
            share = (inputs == ord("L")).sum().item() / (inputs < 256).sum().item()
            assert abs(share - population) < 0.1, (share, population)


# ---- chat rows

def test_exactly_the_masked_tokens_are_targets(tokenizer, conversations):
    """Every (input, target) pair of the rows, against the rendering of each conversation alone."""
    def up_to_last_target(pairs):                       # <|bos|>, padding or half a tool output may follow it
        last = max((t for t, (_, target) in enumerate(pairs) if target >= 0), default=-1)
        return tuple(pairs[: last + 1])

    expected, found = set(), set()
    for conversation in conversations:
        ids, mask = render_conversation(tokenizer, conversation, T + 1)
        wanted = [token if trained else -1 for token, trained in zip(ids[1:], mask[1:])]
        expected.add(up_to_last_target(list(zip(ids, wanted))))
    with ChatLoader(tokenizer, conversations, ROWS, T) as loader:
        for inputs, targets in take(loader, 80):
            for row, wanted in zip(inputs.tolist(), targets.tolist()):
                starts = [t for t, token in enumerate(row) if token == tokenizer.bos] + [T]
                for start, end in zip(starts, starts[1:]):
                    found.add(up_to_last_target(list(zip(row[start:end], wanted[start:end]))))
    assert found - {()} == expected - {()} and len(expected) > 100


def test_packed_chat_rows_are_full_and_only_their_last_conversation_is_cut(tokenizer, conversations):
    whole = {tuple(render_conversation(tokenizer, conversation, T + 1)[0]) for conversation in conversations}
    with ChatLoader(tokenizer, conversations, ROWS, T, crop=True) as loader:
        for inputs, targets in take(loader, 80):
            for row in inputs.tolist():
                starts = [t for t, token in enumerate(row) if token == tokenizer.bos] + [T]
                pieces = [tuple(row[start:end]) for start, end in zip(starts, starts[1:])]
                assert all(piece in whole for piece in pieces[:-1])
                assert any(ids[:len(pieces[-1])] == pieces[-1] for ids in whole)
            assert (targets >= 0).any(dim=1).all()


@pytest.mark.parametrize("seq_len", [64, 300])
def test_every_chat_row_has_a_target(tokenizer, seq_len):
    dice = random.Random(4)
    conversations = []
    for _ in range(200):
        question = "q" * dice.choice([1, 20, 61, 62, 63, 64, 900])
        answer = "a" * dice.choice([0, 1, 30, 5000])
        conversations.append({"messages": [{"role": "user", "content": question},
                                           {"role": "assistant", "content": answer}]})
    with ChatLoader(tokenizer, conversations, ROWS, seq_len) as loader:
        for _, targets in take(loader, 80):
            assert (targets >= 0).any(dim=1).all()


def test_conversations_without_a_target_end_the_run_clearly(tokenizer, capsys):
    conversation = {"messages": [{"role": "user", "content": "q" * 500},
                                 {"role": "assistant", "content": "a"}]}
    with ChatLoader(tokenizer, [conversation] * 5, ROWS, T) as loader:
        with pytest.raises(SystemExit) as stop:
            next(loader)
    assert stop.value.code == 2 and "within 65 tokens" in capsys.readouterr().err


# ---- position

@both
@pytest.mark.parametrize("before", [0, 1, 7, 150])
def test_resume_goes_on_with_the_very_next_batch(kind, before, request, tokenizer):
    with make_loader(kind, request, tokenizer, slots=4) as loader:
        take(loader, before)
        saved = json.loads(json.dumps(loader.state()))
        expected = take(loader, 40)
        later = json.loads(json.dumps(loader.state()))
    with make_loader(kind, request, tokenizer, slots=4, state=saved) as loader:
        assert same(take(loader, 40), expected)
        assert loader.state() == later


@both
def test_two_ranks_see_what_one_rank_with_twice_the_accumulation_sees(kind, request, tokenizer):
    with make_loader(kind, request, tokenizer, slots=4) as alone:
        expected = take(alone, 80)
    for world_size in (2, 4):
        found = [None] * 80
        for rank in range(world_size):
            with make_loader(kind, request, tokenizer, slots=4, rank=rank, world_size=world_size) as loader:
                found[rank::world_size] = take(loader, 80 // world_size)
        assert same(found, expected)


def test_the_saved_positions_of_all_ranks_fit_another_world_size(request, tokenizer):
    with make_loader("pretrain", request, tokenizer, slots=2) as alone:
        take(alone, 10)
        expected = take(alone, 10)
    states = []
    for rank in range(2):
        with make_loader("pretrain", request, tokenizer, rank=rank, world_size=2) as loader:
            take(loader, 5)
            states.append(loader.state())
    merged = states[0] | {"streams": states[0]["streams"] | states[1]["streams"]}
    with make_loader("pretrain", request, tokenizer, slots=2, state=merged) as loader:
        assert same(take(loader, 10), expected)


def test_ranks_share_no_document(tokenizer, tmp_path):
    paths = make_shards(tmp_path, [f"<{i}>" for i in range(2000)], row_group=77)
    seen = []
    for rank in range(4):
        with PretrainLoader(tokenizer, paths, 4, T, rank=rank, world_size=4) as loader:
            tokens = torch.cat([inputs.flatten() for inputs, _ in take(loader, 5)]).tolist()
            text = "".join(chr(token) if token < 256 else " " for token in tokens)
            seen.append({piece for piece in text.split() if piece[0] == "<" and piece[-1] == ">"})
    assert sum(map(len, seen)) == len(set.union(*seen)) > 500


def test_a_saved_position_for_other_settings_is_refused(request, tokenizer, shards, capsys):
    with make_loader("pretrain", request, tokenizer, slots=2) as loader:
        saved = loader.state()
    for options, word in (({"slots": 3}, "slots"), ({"slots": 2, "paths": shards[:1]}, "data")):
        with pytest.raises(SystemExit) as stop:
            PretrainLoader(tokenizer, options.pop("paths", shards), ROWS, T, state=saved, **options)
        assert stop.value.code == 2 and f"for {word} =" in capsys.readouterr().err


# ---- too little data

def test_no_documents_or_fewer_than_streams_raise_at_once(tokenizer, tmp_path, capsys):
    for name, documents, slots in (("empty", [], 1), ("few", ["a", "b", "c"], 4)):
        with pytest.raises(SystemExit) as stop:
            PretrainLoader(tokenizer, make_shards(tmp_path / name, documents, shards=1), ROWS, T, slots=slots)
        assert stop.value.code == 2 and f"fewer than {slots}" in capsys.readouterr().err
    for paths in ([], make_shards(tmp_path / "blank", ["", ""], shards=1)):
        with pytest.raises(SystemExit):
            validation(tokenizer, paths, ROWS, T)
    with pytest.raises(SystemExit):
        PretrainLoader(tokenizer, [], ROWS, T)
    with pytest.raises(SystemExit):
        ChatLoader(tokenizer, [], ROWS, T)


def test_documents_that_are_all_empty_end_the_run(tokenizer, tmp_path):
    paths = make_shards(tmp_path, [""] * 9)
    with PretrainLoader(tokenizer, paths, ROWS, T) as loader, pytest.raises(SystemExit):
        next(loader)


def test_one_row_group_serves_more_ranks_than_row_groups(tokenizer, tmp_path):
    paths = make_shards(tmp_path, [f"document {i}" for i in range(40)], shards=1, row_group=1000)
    for rank in range(8):
        with PretrainLoader(tokenizer, paths, ROWS, T, rank=rank, world_size=8) as loader:
            assert len(take(loader, 3)) == 3


# ---- validation

def rows_of(held_out) -> list[list[int]]:
    rows = torch.cat([torch.cat(batch, dim=1) for batch in held_out.batches])   # the three side by side
    return rows[(rows[:, T : 2 * T] >= 0).any(dim=1)].tolist()


def counted(held_out) -> list[Counter]:
    """Of each document, the tokens that are its targets."""
    found = [Counter() for _ in held_out.sizes]
    for _, targets, documents in held_out.batches:
        for target, document in zip(targets[targets >= 0].tolist(), documents[targets >= 0].tolist()):
            found[document][target] += 1
    return found


@pytest.mark.parametrize("max_tokens", [math.inf, 50 * T, 1])
def test_validation_rows_do_not_depend_on_ranks_or_batch_rows(tokenizer, shards, max_tokens):
    whole = validation(tokenizer, shards, 5, T, max_tokens)
    expected = rows_of(whole)
    for world_size, rows in ((1, 1), (1, 64), (2, 3), (3, 4), (8, 2)):
        ranks = [validation(tokenizer, shards, rows, T, max_tokens, rank, world_size)
                 for rank in range(world_size)]
        assert len({len(held_out.batches) for held_out in ranks}) == 1
        for held_out in ranks:
            assert held_out.sizes == whole.sizes
            for batch in held_out.batches:
                assert all(tensor.shape == (rows, T) for tensor in batch)
                assert [tensor.dtype for tensor in batch] == [torch.int32, torch.int64, torch.int32]
        found = [rows_of(held_out) for held_out in ranks]
        assert [found[i % world_size][i // world_size] for i in range(len(expected))] == expected
        assert sum(map(len, found)) == len(expected)


def test_validation_counts_every_token_once_for_its_document(tokenizer, tmp_path):
    """Of documents up to five rows long, and of an empty one, which is none."""
    documents = ["".join(chr(97 + (i * j) % 26) for j in range(i)) for i in range(300)]
    held_out = validation(tokenizer, make_shards(tmp_path, documents, shards=1), 4, T)
    assert counted(held_out) == [Counter(text.encode()) for text in documents[1:]]
    assert held_out.sizes == list(range(1, 300))


def test_every_tokenizer_and_context_is_asked_for_the_same_text(tokenizer, tmp_path):
    """The first documents that together have 4 bytes per token of the limit, whatever the tokens are."""
    class Words:
        bos = 0

        def encode_batch(self, texts):
            return [[1 + len(word) for word in text.split()] for text in texts]

    dice = random.Random(5)
    documents = ["é" * dice.randrange(1, 300) + " word" * dice.randrange(40) for _ in range(200)]
    sizes = [len(text.encode()) for text in documents]
    merged = Tokenizer([*(bytes([i]) for i in range(256)), "é".encode(), b" w", b"or", b" wor", b" word"])
    paths = make_shards(tmp_path, documents, shards=1)
    for limit in (1, 500, 5000, 10 ** 9):
        enough = [total >= 4 * limit for total in accumulate(sizes)]
        expected = sizes[:enough.index(True) + 1] if any(enough) else sizes
        for asked in (tokenizer, merged, Words()):
            for rows, seq_len in ((1, 32), (ROWS, T)):
                held_out = validation(asked, paths, rows, seq_len, limit)
                assert held_out.sizes == expected
                tokens = map(Counter, asked.encode_batch(documents[:len(expected)]))
                assert counted(held_out) == list(tokens)


def test_one_short_document_is_enough_to_validate(tokenizer, tmp_path):
    held_out = validation(tokenizer, make_shards(tmp_path, ["hi"], shards=1), 2, T)
    (inputs, targets, _), = held_out.batches
    assert targets[targets >= 0].tolist() == list(b"hi") and inputs[0, :3].tolist() == [tokenizer.bos, *b"hi"]
    assert held_out.sizes == [2]


# ---- the background thread

def test_errors_of_the_background_reach_the_caller(tokenizer, tmp_path, capsys):
    paths = make_shards(tmp_path, [str(random.Random(i).random()) * 99 for i in range(60)], shards=1)
    loader = PretrainLoader(tokenizer, paths, ROWS, T)
    loader.close()
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole[:4] + b"\0" * 400 + whole[404:])
    with PretrainLoader(tokenizer, paths, ROWS, T) as loader, pytest.raises(SystemExit) as stop:
        take(loader, 100)
    assert stop.value.code == 2 and paths[0].name in capsys.readouterr().err


def test_closed_and_forgotten_loaders_leave_no_thread(request, tokenizer):
    before = threading.active_count()
    loader = make_loader("pretrain", request, tokenizer)
    next(loader)
    loader.close()
    loader.close()
    assert threading.active_count() == before
    loader = make_loader("pretrain", request, tokenizer)
    del loader
    gc.collect()
    assert threading.active_count() == before


def test_an_open_loader_does_not_keep_the_interpreter(shards):
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        from nanochat.dataloader import PretrainLoader
        from nanochat.tokenizer import Tokenizer
        tokenizer = Tokenizer([bytes([i]) for i in range(256)])
        loader = PretrainLoader(tokenizer, [Path(sys.argv[1])], 2, 32)
        next(loader)
        print("done")
    """)
    done = subprocess.run([sys.executable, "-c", program, str(shards[0])], capture_output=True, text=True,
                          cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_the_saved_position_is_small(request, tokenizer):
    with make_loader("pretrain", request, tokenizer) as loader:
        take(loader, 30)
        state = loader.state()
    assert len(state["streams"]["0"]["buffer"]["lengths"]) <= BUFFER + 20 and len(json.dumps(state)) < 50_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_are_those_on_the_cpu(request, tokenizer):
    with make_loader("pretrain", request, tokenizer) as loader:
        expected = take(loader, 50)
    with make_loader("pretrain", request, tokenizer, device="cuda:0") as loader:
        moved = [next(loader) for _ in range(50)]
    assert all(tensor.device.type == "cuda" for batch in moved for tensor in batch)
    assert same([[tensor.cpu() for tensor in batch] for batch in moved], expected)
