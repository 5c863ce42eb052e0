"""The repository's rules that a machine can check: layers, imports without side effects, no cross-imports."""

import ast
import subprocess
import sys
from pathlib import Path
import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"common", "schedule", "packing", "calculator", "sandbox", "hf_model", "hf_answers"},
    {"almanac", "hub", "dist", "hardware", "scaling", "execution"},
    {"tokenizer", "dataset", "attention", "loss", "fp8", "muon"},
    {"past", "chat", "sampler"},
    {"gpt"},
    {"dataloader", "decode", "stage"},
    {"engine"},
    {"checkpoint", "train", "evals"},
    {"finetune", "rl", "core_eval", "report"},
    {"foreign", "export"},
]
HEAVY = ("wandb", "datasets", "huggingface_hub", "rustbpe", "matplotlib", "transformers", "fastapi",
         "uvicorn")


def imports(path: Path, top_level: bool) -> set[str]:
    """Dotted names that a file imports, anywhere or at its top level only."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", sources("nanochat"), ids=lambda path: path.stem)
def test_a_library_file_imports_only_from_layers_below_its_own(path):
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    assert path.stem in level, f"{path.name} has no layer"
    used = {name.split(".")[1] for name in imports(path, top_level=False) if name.startswith("nanochat.")}
    for other in used & set(level):
        assert level[other] < level[path.stem], f"{path.stem} imports {other}"
    assert not any(name.split(".")[0] in ("tasks", "scripts") for name in imports(path, top_level=False))


@pytest.mark.parametrize("path", sources("scripts"), ids=lambda path: path.stem)
def test_scripts_never_import_each_other(path):
    assert not any(name.split(".")[0] == "scripts" for name in imports(path, top_level=False))


@pytest.mark.parametrize("path", [*sources("nanochat"), *sources("tasks"), *sources("scripts")],
                         ids=lambda path: path.stem)
def test_optional_packages_are_imported_where_they_are_used(path):
    allowed = {"chat_web": {"fastapi", "uvicorn"}, "hf_model": {"transformers"}}.get(path.stem, set())
    assert not {name.split(".")[0] for name in imports(path, top_level=True)} & set(HEAVY) - allowed


def test_training_runs_without_the_optional_packages():
    """The training scripts import where wandb, datasets, rustbpe, fastapi and the like are not installed."""
    code = f"import sys; [sys.modules.__setitem__(name, None) for name in {HEAVY!r}]; "
    code += "import scripts.base_train, scripts.mid_train, scripts.chat_sft; "
    code += "import scripts.chat_eval, scripts.chat_cli"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_inference_never_loads_the_optimizer_and_imports_write_nothing(base_dir):
    code = "import sys, nanochat.engine, nanochat.checkpoint, scripts.chat_cli; "
    code += "assert 'nanochat.muon' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert not base_dir.exists()
