"""What all tests share: an empty base directory each, one torch thread (many small matrices), a tiny saved model."""

import random

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("patient", deadline=None)      # a busy machine is no failure
hypothesis.settings.load_profile("patient")


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
