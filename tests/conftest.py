"""What all tests share: an empty base directory each, one torch thread, the same draws every time."""

import os
import random

import nanochat  # noqa: F401, isort: skip. Before torch: it sets how threads wait.

import pytest
import torch
from hypothesis import settings

if "OMP_NUM_THREADS" not in os.environ:                 # tiny matrices: two threads are slower
    torch.set_num_threads(1)

# The suite draws the same examples every time; HYPOTHESIS_PROFILE=wide draws many new ones, to look for bugs.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("wide", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture(autouse=True)
def base_dir(tmp_path, monkeypatch):
    """Nothing a test does touches the user's own folder."""
    path = tmp_path / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return path


@pytest.fixture(scope="session")
def words():
    """Sentences with something to learn in them: (n documents) -> list of str."""
    def make(count: int, seed: int = 0) -> list[str]:
        dice = random.Random(seed)
        nouns, verbs = ("cat", "dog", "bird", "child"), ("sees", "likes", "follows")
        sentence = lambda: f"The {dice.choice(nouns)} {dice.choice(verbs)} the {dice.choice(nouns)}."
        return [" ".join(sentence() for _ in range(dice.randint(2, 20))) for _ in range(count)]
    return make
