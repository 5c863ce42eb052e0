"""Model directories: self-contained, hashed, there whole or not at all.

models/<tag>/<stage>/step_000500/ holds the weights, the shape, the tokenizer, the training state and a
manifest of all of them. It is written under a temporary name and renamed once complete, so whatever is killed
when, at most the work since the last save is lost. "Newest" is what was written last, if whole."""
import argparse
import json
import os
import re
import shutil
import tempfile
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any
import torch
from safetensors.torch import load_file, save_file
from nanochat.common import atomic_write, base_dir, compute_dtype, die, keep_freed_memory, sha256
from nanochat.dist import find_device
from nanochat.gpt import GPT
from nanochat.scaling import Shape
from nanochat.stage import Stage, model_dir
from nanochat.tokenizer import Tokenizer

FORMAT = 2                                              # of the directory; load() reads all up to this
ESSENTIAL = ("config.json", "model.safetensors", "state.json")
STAGES = ("rl", "sft", "mid", "base")                   # the most finished first

def save(stage: Stage, model: GPT, tokenizer: Tokenizer, step: int, *, optimizer: Any = None,
         loader: Any = None, **state) -> Path:
    """Write step_<step> of the stage, called by every rank. `state` (JSON-able) is kept in state.json, with
    the position of `loader` (all ranks' merged); `optimizer` as one shard per rank. Returns the directory."""
    world = stage.world
    final = stage.directory / f"step_{step:06d}"
    temporary = stage.directory / f".{final.name}.tmp"
    if world.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    world.barrier()
    shard = temporary / f"optimizer_{world.rank}.pt"
    if optimizer is not None:
        torch.save(optimizer.state_dict(), shard)
    position = loader.state() if loader is not None else None
    sealed, positions = zip(*world.gather_objects((optimizer and _seal(shard), position)), strict=True)
    if world.is_main:
        if loader is not None:
            merged = {slot: stream for position in positions for slot, stream in position["streams"].items()}
            state["loader"] = {**positions[0], "streams": merged}
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()},
                  temporary / "model.safetensors")
        config = {"format": FORMAT, "shape": asdict(model.shape), "tokenizer": tokenizer.hash}
        (temporary / "config.json").write_text(json.dumps(config, indent=1))
        tokenizer.save(temporary / "tokenizer")
        facts = {"stage": stage.name, "tag": stage.tag, "step": step, "dtype": stage.dtype_name,
                 "args": vars(stage.args), **state}
        (temporary / "state.json").write_text(json.dumps(facts, default=str))
        shards = {f"optimizer_{rank}.pt": entry for rank, entry in enumerate(sealed) if entry}
        _publish(temporary, final, shards)
    world.barrier()
    stage.print(f"saved {final}")
    return final

def _seal(path: Path) -> dict:
    """Flush a file to disk -> its entry in the manifest. Each rank does its own: a signal leaves 30 s."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return {"size": path.stat().st_size, "sha256": sha256(path)}

def _publish(temporary: Path, final: Path, sealed: dict[str, dict]) -> None:
    """Seal what is not yet, and only then give it its name, in place of an older one."""
    names = (str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file())
    entries = {name: sealed.get(name) or _seal(temporary / name) for name in sorted(names)}
    manifest = {"created": time.time(), "files": entries}
    atomic_write(temporary / "manifest.json", json.dumps(manifest, indent=1))
    replaced = final.with_name(f".{final.name}.old")    # a checkpoint as long as `final` is not there
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    temporary.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)

def created(directory: Path) -> float | None:
    """When the directory was written, None if it is not a whole checkpoint (by the sizes of its files)."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        files = manifest["files"].items()
        whole = all((directory / name).stat().st_size == entry["size"] for name, entry in files)
        return float(manifest["created"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None

def _intact(directory: Path, name: str) -> bool:
    entry = json.loads((directory / "manifest.json").read_text())["files"].get(name)
    return entry is not None and sha256(directory / name) == entry["sha256"]

def checkpoints(stage_name: str, tag: str) -> list[Path]:
    """Whole checkpoints of a stage of a model, oldest first, one that a save was just replacing included."""
    folder = model_dir(tag) / stage_name
    paths = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{6,}", path.name)]
    paths += [path for path in folder.glob(".step_*.old") if not (folder / path.stem[1:]).exists()]
    found = sorted((when, path) for path in paths if (when := created(path)))
    return [path for _, path in found]

def newest(stage_name: str, tag: str) -> Path | None:
    """The newest whole checkpoint of a stage of a model, if there is one."""
    return (checkpoints(stage_name, tag) or [None])[-1]

def stages(tag: str) -> list[Path]:
    """The newest whole checkpoint of every stage of a model that is there, the most finished first."""
    return [path for name in STAGES if (path := newest(name, tag))]

def find(stage_name: str | None = None, tag: str | None = None, step: int | None = None) -> Path:
    """The checkpoint asked for. Without a step the newest one, without a tag of the model that was written
    last, without a stage of the most finished stage. Dies with what there is if it is not there."""
    root = base_dir() / "models"
    tags = [tag] if tag else [path.name for path in root.glob("[!.]*") if path.is_dir()]
    for name in [stage_name] if stage_name else STAGES:
        paths = [path for t in tags for path in checkpoints(name, t)
                 if step is None or path.stem.lstrip(".") == f"step_{step:06d}"]
        if paths:
            return max(paths, key=created)
    asked = {"stage": stage_name, "tag": tag, "step": step}
    wanted = " ".join(f"{key} {value}" for key, value in asked.items() if value is not None)
    there = sorted(f"{t}/{name}" for t in tags for name in STAGES if checkpoints(name, t))
    die(f"no checkpoint of {wanted or 'any model'} under {root}",
        hint=f"there are: {', '.join(there)}" if there else "train one: bash runs/runcpu.sh")

def read_config(directory: Path) -> dict:
    """config.json: format, shape, hash of the tokenizer. Dies at a format that is newer than this code."""
    config = json.loads((directory / "config.json").read_text())
    if config["format"] > FORMAT:
        die(f"{directory} has format {config['format']}, this code reads up to {FORMAT}",
            hint="use the code that wrote it, or newer")
    return config

def read_state(directory: Path) -> dict:
    """state.json: stage, tag, step, dtype, the arguments of the run, and what the stage saved."""
    read_config(directory)
    state = json.loads((directory / "state.json").read_text())
    return {"dtype": "float32", "text": None, "rows": 4} | state        # which format 1 did not keep

def require_dtype(directory: Path, stage: Stage) -> None:
    """Dies where a run would go on in another dtype than it was begun in: it would be another run."""
    saved = read_state(directory)["dtype"]
    if saved != stage.dtype_name:
        die(f"{directory} was trained in {saved}, this run computes in {stage.dtype_name}",
            hint=f"--dtype={saved} goes on; without --resume it starts over")

def identity(directory: Path) -> str:
    """Which checkpoint this is, in one line: a retrained one is another, also under the same name."""
    state = read_state(directory)
    return f"{state['tag']} {state['stage']} {state['step']} {created(directory)}"

def load(directory: Path, device: torch.device, dtype: torch.dtype) -> tuple[GPT, Tokenizer, dict]:
    """The model, in training mode, its tokenizer and its state. Dies if anything does not verify."""
    for name in ESSENTIAL:
        if not _intact(directory, name):
            die(f"{directory / name} does not match its manifest: the file is damaged",
                hint="--step=N takes an older checkpoint")
    state, config = read_state(directory), read_config(directory)
    tokenizer = Tokenizer.load(directory / "tokenizer")
    if tokenizer.hash != config["tokenizer"]:
        die(f"the tokenizer in {directory} is not the one that the model was trained with "
            f"({tokenizer.hash[:12]} instead of {config['tokenizer'][:12]})")
    model = GPT(Shape(**config["shape"]), dtype)
    weights = load_file(directory / "model.safetensors")
    if config["format"] == 1:                           # blocks had no parts
        for part, names in (("attention", "[qkvo]|gate"), ("mlp", "up|down")):
            weights = {re.sub(rf"(\d)\.({names})\.", rf"\1.{part}.\2.", name): tensor
                       for name, tensor in weights.items()}
    model.load_state_dict(weights)
    return model.to(device), tokenizer, state

def load_optimizer(directory: Path, optimizer: Any) -> bool:
    """Restore this rank's share of an optimizer; False if there is none for so many ranks and this format."""
    name = f"optimizer_{optimizer.world.rank}.pt"
    shards = len(list(directory.glob("optimizer_*.pt")))
    same = shards == optimizer.world.size and read_config(directory)["format"] == FORMAT
    if not same or not _intact(directory, name):
        return False
    optimizer.load_state_dict(torch.load(directory / name, map_location="cpu", weights_only=True))
    return True

def pack(directory: Path, file: Path) -> None:
    """A model directory as one file, a plain zip: what inference needs, and a manifest of that."""
    state = read_state(directory)
    state = json.dumps({key: state[key] for key in ("stage", "tag", "step", "dtype")}).encode()
    files = json.loads((directory / "manifest.json").read_text())["files"]
    files = {name: files[name] for name in files if not name.startswith(("optimizer_", "state."))}
    facts = {"created": created(directory), "files": files | {
        "state.json": {"size": len(state), "sha256": sha256(state)}}}
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with zipfile.ZipFile(temporary, "w") as archive:
        for name in files:
            archive.write(directory / name, name)
        archive.writestr("state.json", state)
        archive.writestr("manifest.json", json.dumps(facts))
    temporary.replace(file)

def unpack(file: Path) -> Path:
    """The model directory that was packed; kept under base_dir()/packed by the hash of the file."""
    if not file.is_file():
        die(f"{file} is not a file", hint="--model takes what scripts.export_hf --pack has written")
    directory = base_dir() / "packed" / sha256(file)[:16]
    if not created(directory):
        directory.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as name:
            temporary = Path(name) / "model"
            try:
                with zipfile.ZipFile(file) as archive:
                    archive.extractall(temporary)
                files = json.loads((temporary / "manifest.json").read_text())["files"]
                if not all(_intact(temporary, name) for name in (*ESSENTIAL, *files)):
                    raise ValueError("a file in it is damaged")
            except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
                die(f"{file} is not a packed model, or was damaged: {error}")
            shutil.rmtree(directory, ignore_errors=True)
            temporary.rename(directory)
    return directory

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say which trained model to use."""
    add = parser.add_argument
    add("-i", "--stage", choices=STAGES, help="of the model (default: the most finished one)")
    add("--model-tag", help="name of the model (default: the newest)")
    add("--step", type=int, help="of its checkpoint (default: the newest)")
    add("--model", type=Path, metavar="FILE", help="a model in one file instead, from export_hf --pack")

def chosen(args: argparse.Namespace) -> Path:
    """The model directory that these flags mean."""
    return unpack(args.model) if args.model else find(args.stage, args.model_tag, args.step)

def load_model(directory: Path, device: str | None = None,
               dtype: str | None = None) -> tuple[GPT, Tokenizer, dict]:
    """For inference: model, tokenizer and state of a model directory. In the dtype that is faster
    here, whatever it was trained in, unless `dtype` or $NANOCHAT_DTYPE says otherwise."""
    keep_freed_memory()
    found = find_device(device)
    model, tokenizer, state = load(directory, found, compute_dtype(found, dtype))
    return model.eval().requires_grad_(False), tokenizer, state
