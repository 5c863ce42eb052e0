"""Sources to shards: the almanac, files of any kind, and shards of a small hub on 127.0.0.1."""

import gzip
import hashlib
import json
import multiprocessing
import sys
from types import SimpleNamespace
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import serving
from huggingface_hub.utils import WeakFileLock
import nanochat
from nanochat import dataset
from nanochat.dataset import Dataset, prepare, read_row_group, row_groups, texts

@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


def write_parquet(path, documents, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": documents}), path, **options)
    return path


def read(part) -> list[str]:
    return list(texts(part))


def dies(capsys, *words, **arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        prepare(**arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: "), error
    assert all(word in error for word in words), error
    return error


# ---- almanac

def fake_almanac(monkeypatch, documents) -> None:
    module = SimpleNamespace(documents=documents, __file__=dataset.__file__)
    monkeypatch.setattr(nanochat, "almanac", module, raising=False)


@pytest.fixture
def small_almanac(monkeypatch):
    made = []

    def documents(seed, split):
        made.append(split)
        number = 0
        while True:
            number += 1
            yield f"{split} document {number} " + "x" * 200

    fake_almanac(monkeypatch, documents)
    return made


def test_almanac_becomes_shards_of_the_asked_size(small_almanac):
    made = prepare("almanac", almanac_mb=1.5)
    size = sum(len(text.encode()) for text in read(made.train))
    assert 1.5e6 <= size < 1.5e6 + 1000
    assert all(text.startswith("train") for text in read(made.train))
    assert all(text.startswith("val") for text in read(made.val))
    assert max(count for _, _, count in row_groups(made.train)) <= dataset.ROW_GROUP


def test_a_finished_set_is_found_again(small_almanac):
    first = prepare("almanac", almanac_mb=0.1)
    assert prepare("almanac", almanac_mb=0.1) == first and len(small_almanac) == 2


def test_another_size_leaves_the_first_set_alone(small_almanac):
    first = prepare("almanac", almanac_mb=0.1)
    second = prepare("almanac", almanac_mb=0.2)
    assert first.train[0].parent != second.train[0].parent
    assert len(read(first.train)) < len(read(second.train))


def test_the_digest_of_a_set_is_that_of_its_validation_files(small_almanac):
    made = [prepare("almanac", almanac_mb=size) for size in (1, 2, 0.5)]
    digest = hashlib.sha256(made[0].val[0].read_bytes()).hexdigest()
    assert made[0].val_sha256 == made[1].val_sha256 == hashlib.sha256(digest.encode()).hexdigest()
    assert made[2].val_sha256 != made[0].val_sha256


def test_a_source_that_fails_midway_leaves_nothing_behind(base, monkeypatch):
    def documents(seed, split):
        yield "one"
        raise RuntimeError("killed")

    fake_almanac(monkeypatch, documents)
    with pytest.raises(RuntimeError):
        prepare("almanac")
    assert [path for path in (base / "data").rglob("*") if not path.name.endswith(".lock")] == []


def _prepare_in_child(arguments, meet, results):
    meet.wait()
    results.put(prepare(**arguments))


def prepared_by_two(**arguments) -> Dataset:
    """What two processes that ask at once get: the same."""
    context = multiprocessing.get_context("fork")
    results, meet = context.Queue(), context.Barrier(2)
    children = [context.Process(target=_prepare_in_child, args=(arguments, meet, results)) for _ in range(2)]
    for child in children:
        child.start()
    one, two = results.get(), results.get()
    for child in children:
        child.join()
    assert one == two
    return one


def test_a_set_that_two_processes_ask_for_at_once_is_made_by_one(tmp_path, monkeypatch):
    written, write = tmp_path / "written", dataset._write_shards
    monkeypatch.setattr(dataset, "_write_shards",
                        lambda *args: written.open("a").write("x") and write(*args))
    write_parquet(tmp_path / "in" / "a.parquet", [f"document {i} " * 20 for i in range(3000)])
    made = prepared_by_two(path=tmp_path / "in")
    assert len(read(made.train)) + len(read(made.val)) == 3000 and written.read_text() == "xx"


# ---- your own text

def test_every_kind_of_file_is_read(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("\ufeffplain text\n\nwith a paragraph")
    (folder / "b.jsonl").write_text('{"text": "line one"}\n\n{"text": "lone \\ud800 surrogate"}\n')
    (folder / "deep" / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "zipped"}\n'))
    (folder / "deep" / "d.txt.gz").write_bytes(gzip.compress("übersetzt".encode()))
    (folder / "ignored.csv").write_text("not,text")
    (folder / ".hidden.txt").write_text("hidden")
    write_parquet(folder / "e.parquet", ["from parquet", None, "  "])
    made = prepare(path=folder)
    assert sorted(read(made.train) + read(made.val)) == sorted([
        "plain text\n\nwith a paragraph", "line one", "lone ? surrogate", "zipped", "übersetzt",
        "from parquet"])
    assert "plain text\n\nwith a paragraph" in read(made.val)


def test_a_book_is_cut_at_blank_lines_and_loses_nothing(tmp_path):
    paragraphs = [f"Paragraph {i}. " + "word " * 100 for i in range(200)]
    book = tmp_path / "book.txt"
    book.write_text("\n\n".join(paragraphs))
    made = prepare(path=book)
    documents = read(made.train) + read(made.val)
    sizes = sorted(len(text) for text in documents)     # the book's end is the only short one
    assert 10 < len(documents) < 20 and all(8_000 <= size < 9_000 for size in sizes[1:])
    found = [paragraph.strip() for text in documents for paragraph in text.split("\n\n")]
    assert sorted(found) == sorted(paragraph.strip() for paragraph in paragraphs)


def test_end_of_text_lines_separate_documents(tmp_path):
    (tmp_path / "stories.txt").write_text("one\n\nstill one\n<|endoftext|>\ntwo\n<|endoftext|>\n")
    made = prepare(path=tmp_path / "stories.txt")
    assert sorted(read(made.train) + read(made.val)) == ["one\n\nstill one", "two"]


def test_validation_is_a_fixed_percent_whatever_the_order_but_for_the_first_document(tmp_path):
    documents = [f"document number {i}" for i in range(5000)]
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for folder, order in (("a", documents), ("b", documents[::-1])):
        lines = [json.dumps({"text": text}) + "\n" for text in order]
        (tmp_path / folder / "x.jsonl").write_text("".join(lines))
    one, two = prepare(path=tmp_path / "a"), prepare(path=tmp_path / "b")
    assert set(read(one.val)) ^ set(read(two.val)) == {documents[0], documents[-1]}
    assert 25 <= len(read(one.val)) <= 80
    assert sorted(read(one.train) + read(one.val)) == sorted(documents)


def test_copies_of_a_validation_document_are_not_trained_on(tmp_path):
    lines = [json.dumps({"text": f"document {i % 7}"}) + "\n" for i in range(70)]
    (tmp_path / "x.jsonl").write_text("".join(lines))
    made = prepare(path=tmp_path)
    assert len(read(made.val)) == 10 and not set(read(made.val)) & set(read(made.train))


def test_changed_input_is_noticed(tmp_path):
    file = tmp_path / "in" / "x.jsonl"
    file.parent.mkdir()
    file.write_text('{"text": "a"}\n{"text": "b"}\n')
    first = prepare(path=file.parent)
    file.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    second = prepare(path=file.parent)
    assert len(read(first.train)) == 1 and len(read(second.train)) == 2


def test_good_parquet_with_validation_is_used_in_place(tmp_path, base):
    train = write_parquet(tmp_path / "in" / "train_00000.parquet", ["a", "b"])
    val = write_parquet(tmp_path / "in" / "val_00000.parquet", ["c"])
    made = prepare(path=tmp_path / "in")
    assert (made.train, made.val) == ((train,), (val,)) and not list(base.rglob("*.parquet"))


def test_validation_files_are_kept_beside_other_kinds_of_file(tmp_path):
    write_parquet(tmp_path / "in" / "val_00000.parquet", ["held out"])
    (tmp_path / "in" / "x.txt").write_text("trained on")
    made = prepare(path=tmp_path / "in")
    assert read(made.train) == ["trained on"] and read(made.val) == ["held out"]


def test_bad_input_gets_one_clear_line(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    dies(capsys, "does not exist", path=tmp_path / "nowhere")
    dies(capsys, "none of 0 files", path=folder)
    (folder / "one.txt").write_text("the only document")
    dies(capsys, "at least one each", path=folder)
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n{"body": 3}\n')
    dies(capsys, "bad.jsonl:2", path=folder)
    (folder / "bad.jsonl").unlink()
    (folder / "latin.txt").write_bytes("é".encode("latin-1") * 9)
    dies(capsys, "latin.txt", "UTF-8", path=folder)
    (folder / "latin.txt").unlink()
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "zipped"}\n' * 99)[:-9])
    dies(capsys, "cut.jsonl.gz", path=folder)
    dies(capsys, "must be 1 to", source="climbmix", num_shards=0)
    dies(capsys, "nothing to train on", source="almanac", almanac_mb=0)


def test_a_corrupt_shard_is_named(tmp_path, capsys):
    shard = write_parquet(tmp_path / "in" / "train_00000.parquet", ["a" * 1000] * 50)
    write_parquet(tmp_path / "in" / "val_00000.parquet", ["c"])
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20])
    dies(capsys, "train_00000.parquet", "cannot be read", path=tmp_path / "in")
    pq.write_table(pa.table({"body": ["x"]}), shard)
    dies(capsys, "train_00000.parquet", "no column `text`", path=tmp_path / "in")
    shard.write_bytes(whole[:4] + b"\0" * 40 + whole[44:])          # a good footer over damaged pages
    with pytest.raises(SystemExit) as stop:
        read_row_group(shard, 0)
    assert stop.value.code == 2 and "train_00000.parquet" in capsys.readouterr().err


# ---- Hugging Face

@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(dataset.HUBS, "climbmix", ("some/set", 4))
    with serving(monkeypatch) as server:
        for number in range(5):
            documents = [f"shard {number} document {i}" for i in range(30)]
            shard = write_parquet(tmp_path / "hub" / "shard", documents)
            server.files[f"shard_{number:05d}.parquet"] = shard.read_bytes()
        yield server


def fetched(hub) -> list[str]:
    return sorted(path.rpartition("/")[2] for command, path, _ in hub.asked if "/storage/" in path)


def test_validation_is_the_last_shard_however_many_are_fetched(hub):
    two = prepare("climbmix", num_shards=2)
    hub.asked.clear()
    three = prepare("climbmix", num_shards=3)
    assert fetched(hub) == ["shard_00002.parquet"]
    assert two.val == three.val and two.val_sha256 == three.val_sha256
    assert read(two.val)[0].startswith("shard 4")
    assert two.train == three.train[:2] and read(three.train)[60].startswith("shard 2")
    hub.asked.clear()
    assert prepare("climbmix", num_shards=2) == two and hub.asked == []


def test_shards_that_are_here_are_found_while_others_are_being_fetched(hub):
    two = prepare("climbmix", num_shards=2)
    with WeakFileLock(two.train[0].parent / ".download.lock"):      # of what speedrun.sh fetches meanwhile
        assert prepare("climbmix", num_shards=2) == two


def test_shards_that_two_processes_ask_for_at_once_are_fetched_once(hub):
    assert len(prepared_by_two(source="climbmix", num_shards=3).train) == 3
    assert fetched(hub) == [f"shard_{i:05d}.parquet" for i in (0, 1, 2, 4)]


@pytest.mark.parametrize("flags, saved, shards", [
    ([], None, 3), (["--num-shards=2"], None, 2),       # those of the plan, where no flag says how many
    ([], 1, 1), (["--source=climbmix"], 1, 1),          # a checkpoint keeps what was used
    (["--num-shards=4"], 1, 4), (["--source=fineweb-edu"], 1, 3)])
def test_the_number_of_shards_is_that_of_flag_checkpoint_and_plan_in_this_order(flags, saved, shards,
                                                                                monkeypatch):
    monkeypatch.setattr(dataset, "default_source", lambda: "climbmix")
    used = {"source": "climbmix", "path": None, "num_shards": saved, "almanac_mb": 24} if saved else None
    args = dataset.parser().parse_args(flags)
    assert dataset.choose(args, used, num_shards=3)["num_shards"] == shards
    assert dataset.choose(args, used, num_shards=10 ** 6)["num_shards"] <= 6542


@pytest.mark.parametrize("flags, shards", [(["--depth=2", "--target-param-data-ratio=4"], 1),
                                           (["--depth=24"], 4), (["--num-shards=2", "--depth=24"], 2)])
def test_what_a_depth_needs_is_fetched_in_advance_as_far_as_the_set_has_it(hub, flags, shards, capsys):
    dataset.main(dataset.parser().parse_args(["--source=climbmix", *flags]))
    assert f"climbmix: {shards} training shards" in capsys.readouterr().out
    assert fetched(hub) == [f"shard_{i:05d}.parquet" for i in range(shards)] + ["shard_00004.parquet"]


def test_a_fetched_set_needs_neither_the_library_nor_a_network(hub, monkeypatch):
    made = prepare("climbmix", num_shards=2)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert prepare("climbmix", num_shards=2) == made


def test_a_missing_shard_ends_with_code_2_and_what_is_here_is_kept(hub, capsys):
    prepare("climbmix", num_shards=1)
    content = hub.files.pop("shard_00001.parquet")
    dies(capsys, "404", "shard_00001", source="climbmix", num_shards=2)
    hub.files["shard_00001.parquet"] = content
    hub.asked.clear()
    assert len(prepare("climbmix", num_shards=2).train) == 2
    assert fetched(hub) == ["shard_00001.parquet"]


def test_a_missing_validation_shard_ends_with_code_2(hub, capsys):
    del hub.files["shard_00004.parquet"]
    dies(capsys, "shard_00004", source="climbmix", num_shards=1)


def test_a_shard_cut_short_on_disk_is_named_before_it_is_read_and_fetched_again_once_deleted(hub, capsys):
    made = prepare("climbmix", num_shards=2)
    made.train[1].write_bytes(made.train[1].read_bytes()[:-50])
    with pytest.raises(SystemExit) as stop:
        next(texts(made.train))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and f"{made.train[1]} cannot be read" in error and "delete it" in error
    made.train[1].unlink()
    hub.asked.clear()
    assert len(read(prepare("climbmix", num_shards=2).train)) == 60
    assert fetched(hub) == ["shard_00001.parquet"]
