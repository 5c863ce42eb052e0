"""A checkpoint is there whole or not at all, and what was saved is what is loaded."""

import json
import os
import shutil
import signal
import zipfile
from argparse import Namespace
from pathlib import Path
import pytest
import torch
from nanochat import checkpoint
from nanochat.dist import World
from nanochat.gpt import GPT
from nanochat.scaling import make_shape
from nanochat.stage import Stage
from nanochat.tokenizer import Tokenizer

CPU = torch.device("cpu")
SHAPE = make_shape(2, 265, head_dim=8, aspect_ratio=4, sequence_len=32)


def tokenizer() -> Tokenizer:
    return Tokenizer([bytes([i]) for i in range(256)])


def save(tag="a", name="base", step=1, seed=0, **state) -> Path:
    stage = Stage(name, tag, World(), Namespace(dtype="float32", run="dummy"))
    return checkpoint.save(stage, GPT(SHAPE).init_weights(seed), tokenizer(), step, **state)


def test_what_was_saved_is_what_is_loaded():
    path = save(seed=3, note=[1, "two"])
    model, loaded, state = checkpoint.load(path, CPU, torch.float32)
    weights, expected = model.state_dict(), GPT(SHAPE).init_weights(3).state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in weights.keys() | expected.keys())
    assert loaded.hash == tokenizer().hash and state["step"] == 1 and state["note"] == [1, "two"]


def test_the_newest_whole_directory_is_the_latest_whatever_else_lies_there():
    first, second = save(step=200), save(step=100)                    # a shorter run, later
    shutil.copytree(second, second.with_name("step_000300_backup"))
    shutil.copytree(second, second.with_name("step_9"))
    cut = second.with_name("step_000900")
    shutil.copytree(second, cut)
    os.truncate(cut / "model.safetensors", 100)
    (second.with_name("step_000901")).mkdir()
    assert checkpoint.find("base", "a") == second and checkpoint.checkpoints("base", "a") == [first, second]
    assert checkpoint.find("base", "a", step=200) == first


def test_the_most_finished_stage_of_the_newest_model_is_the_default():
    save("old", "sft", 5)
    save("new", "base", 5)
    assert checkpoint.find().parts[-3:] == ("old", "sft", "step_000005")
    assert checkpoint.find("base").parts[-3] == "new"
    save("new", "sft", 1)
    assert checkpoint.find().parts[-3] == "new"


def test_nothing_to_load_is_said_with_what_there_is(capsys):
    with pytest.raises(SystemExit) as stop:
        checkpoint.load_model(checkpoint.find("sft"))
    assert stop.value.code == 2 and "no checkpoint of stage sft" in capsys.readouterr().err
    save("a", "base")
    with pytest.raises(SystemExit):
        checkpoint.find("sft")
    assert "a/base" in capsys.readouterr().err


def test_a_checkpoint_keeps_its_identity_until_it_is_written_again():
    first, other = checkpoint.identity(save(step=1)), checkpoint.identity(save(step=2))
    path = checkpoint.find("base", "a", step=1)
    moved = path.rename(path.with_name(f".{path.name}.old"))          # as in the middle of a later save
    assert checkpoint.identity(moved) == first != other and "\n" not in first
    assert checkpoint.identity(save(step=1)) != first


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "state.json"])
def test_a_damaged_file_is_refused(name, capsys):
    path = save()
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(SystemExit) as stop:
        checkpoint.load(path, CPU, torch.float32)
    assert stop.value.code == 2 and name in capsys.readouterr().err


def test_a_tokenizer_that_does_not_match_is_refused(capsys):
    path = save()
    shutil.rmtree(path / "tokenizer")
    Tokenizer([bytes([i]) for i in range(256)] + [b"th"]).save(path / "tokenizer")
    with pytest.raises(SystemExit) as stop:
        checkpoint.load(path, CPU, torch.float32)
    assert stop.value.code == 2 and "tokenizer" in capsys.readouterr().err


def save_and_die(calls: int) -> None:
    """In a child: save a second model over the first and be killed at the n-th call to the file system."""
    left = [calls]

    def dying(original):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)
        return call

    for name in ("fsync", "replace", "rename", "open", "mkdir", "rmdir", "unlink"):
        setattr(os, name, dying(getattr(os, name)))
    save(step=1, seed=2)


@pytest.mark.parametrize("calls", range(1, 50))
def test_kill_9_at_any_moment_of_a_save_never_loses_the_previous_checkpoint(calls):
    save(step=1, seed=1)
    child = os.fork()
    if child == 0:
        try:
            save_and_die(calls)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    model, _, _ = checkpoint.load_model(checkpoint.find("base", "a"), "cpu", "float32")
    expected = [GPT(model.shape).init_weights(seed) for seed in (1, 2)]
    assert any(torch.equal(model.embedding, other.embedding) for other in expected)
    save(step=1, seed=3)                                # what the killed save left behind is not in the way
    model, _, _ = checkpoint.load_model(checkpoint.find("base", "a"), "cpu", "float32")
    assert torch.equal(model.embedding, GPT(model.shape).init_weights(3).embedding)


# ---- formats, and models in one file ------------------------------------------------------------------

@pytest.mark.parametrize("number", range(1, checkpoint.FORMAT + 1))
def test_a_model_of_each_format_still_gives_the_logits_that_its_own_code_gave(number):
    folder = Path(__file__).parent / "models" / f"format_{number}"
    assert json.loads((folder / "config.json").read_text())["format"] == number
    model, _, state = checkpoint.load(folder, CPU, torch.float32)
    told = json.loads((folder / "logits.json").read_text())             # by the code that wrote the model
    logits = model(torch.tensor([told["ids"]]))[0, -1]
    torch.testing.assert_close(logits, torch.tensor(told["logits"]), atol=1e-4, rtol=0)
    assert (state["tag"], state["stage"], state["step"]) == ("tiny", "base", 7)
    assert {"dtype", "text", "rows"} <= state.keys()


def test_a_format_to_come_is_refused_in_one_line(capsys):
    path = save()
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"format": checkpoint.FORMAT + 1}))
    with pytest.raises(SystemExit, match="2"):
        checkpoint.read_state(path)
    assert f"has format {checkpoint.FORMAT + 1}" in capsys.readouterr().err


def test_a_packed_model_is_the_same_model_without_its_training(tmp_path):
    path, file = save(seed=5, note="of the run", args_of="somebody"), tmp_path / "tiny.nanochat"
    (path / "optimizer_0.pt").write_bytes(b"a pickle")
    checkpoint.pack(path, file)
    directory = checkpoint.unpack(file)
    assert directory == checkpoint.unpack(file) and not list(directory.glob("*.pt"))
    model, loaded, state = checkpoint.load_model(directory, "cpu", "float32")
    expected = GPT(SHAPE).init_weights(5).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert loaded.hash == tokenizer().hash
    assert state == {"stage": "base", "tag": "a", "step": 1, "dtype": "float32", "text": None, "rows": 4}
    assert checkpoint.find("base") == path              # it is no checkpoint to go on from


@pytest.mark.parametrize("place", [0.01, 0.2, 0.5, 0.8, 0.97])
def test_a_damaged_pack_is_refused_in_one_line_and_leaves_nothing(tmp_path, base_dir, capsys, place):
    file = tmp_path / "tiny.nanochat"
    checkpoint.pack(save(), file)
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 0x55
    file.write_bytes(data)
    with pytest.raises(SystemExit, match="2"):
        checkpoint.unpack(file)
    told = capsys.readouterr().err
    assert f"{file} is not a packed model, or was damaged" in told and told.count("\n") == 1
    assert not list((base_dir / "packed").iterdir())


def test_a_pack_whose_weights_were_exchanged_is_refused_whatever_its_checksums_say(tmp_path, capsys):
    one, other, file = save("a", seed=1), save("b", seed=2), tmp_path / "tiny.nanochat"
    checkpoint.pack(one, file)
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["model.safetensors"] = (other / "model.safetensors").read_bytes()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    with pytest.raises(SystemExit, match="2"):
        checkpoint.unpack(file)
    assert "a file in it is damaged" in capsys.readouterr().err


def test_a_pack_writes_nothing_outside_its_folder(tmp_path, base_dir):
    file = tmp_path / "hostile.nanochat"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../escaped", "x")
        archive.writestr("manifest.json", json.dumps({"created": 1, "files": {}}))
    with pytest.raises(SystemExit, match="2"):
        checkpoint.unpack(file)
    assert not list(tmp_path.rglob("escaped"))
