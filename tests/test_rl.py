"""Reinforcement learning: what is drawn, what is scored, what is learned, and the script from end to end."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path
import pytest
import torch
import tasks
from nanochat import checkpoint, rl
from nanochat.common import RunLog
from nanochat.dist import World
from nanochat.engine import Engine, SamplingParams
from nanochat.gpt import GPT
from nanochat.muon import MuonAdamW
from nanochat.rl import Problem, policy_loss, token_logprobs
from nanochat.scaling import LearningRates, Shape
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer
from scripts import base_train, chat_rl, mid_train

ROOT = Path(__file__).parent.parent


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["abc"], 256 + len(SPECIAL_TOKENS))


def random_model(spread: float = 0.4) -> GPT:
    model = GPT(Shape(n_layer=2, n_head=2, n_kv_head=2, n_embd=32, sequence_len=120,
                      vocab_size=tokenizer().vocab_size, window_pattern="L"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():            # as initialised, every block is the identity
            parameter.normal_(0, spread, generator=generator)
        model.unembedding.mul_(0.2)                     # any token, tool calls too, now and then
    return model


def problem(text: str, judge=lambda question, reply: len(reply) % 2 == 0, max_tokens: int = 40) -> Problem:
    return {"conversation": {"messages": [{"role": "user", "content": text}]}}, judge, max_tokens


class Rollouts:
    """Work, and the engine that draws it."""
    def __init__(self, model: GPT, problems, **settings):
        settings = {"per_step": 4, "samples": 8, "temperature": 1.0, "tokens": 300, "seed": 0} | settings
        self.engine, self.samples = Engine(model, tokenizer(), 16), settings["samples"]
        self.work = rl.rollouts(self.engine, problems, **settings)

    def __next__(self):
        return next(self.work)


def watched(work: Rollouts) -> list:
    """Fills with the (prompt, completion) pairs that `work` draws."""
    seen, generate = [], work.engine.generate

    def watch(prompts, params):
        made = generate(prompts, params)
        seen.extend(zip(prompts, made))
        return made

    work.engine.generate = watch
    return seen


PROBLEMS = [problem(text) for text in ("a", "longer than that", "b?", "and yet another one", "c")]


# ---- what is sampled is what is scored

@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_what_is_sampled_is_what_is_scored(temperature):
    """
    The log-probabilities that the engine drew with, cached and in company, against those that the training
    pass gives to the same tokens, tool calls and what is ruled out in and outside of them included.
    """
    model = random_model()
    work = Rollouts(model, PROBLEMS, temperature=temperature, samples=24)
    drawn, scored = watched(work), {}
    batches = next(work).micro_batches
    for inputs, targets, calls, _ in batches:
        with torch.no_grad():
            logprobs, where = token_logprobs(model, work.engine.forbidden, temperature, inputs, targets,
                                             calls)
        for row, values in enumerate(logprobs.split(where.sum(1).tolist())):
            prompt = inputs[row, :where[row].nonzero()[0] + 1].tolist()
            scored[tuple(prompt), tuple(targets[row][where[row]].tolist())] = values
    in_calls = compared = 0
    for prompt, completion in drawn:
        own = [i for i, sampled in enumerate(completion.sampled) if sampled]
        values = scored.get((tuple(prompt), tuple(completion.ids[i] for i in own)))
        if values is not None:                          # else its problem had nothing to teach
            expected = torch.tensor([completion.logprobs[i] for i in own])
            torch.testing.assert_close(values, expected, atol=2e-4, rtol=1e-4)
            compared += 1
            in_calls += sum(completion.in_call)
    assert compared > 40 and in_calls > 10


def test_log_probabilities_of_the_engine_are_those_of_a_plain_softmax():
    """At the first token there is no cache and no tool: softmax of what is allowed, over the temperature."""
    model, prompt = random_model(), [tokenizer().bos, 65, 66]
    engine = Engine(model, tokenizer(), 16)
    logits = model(torch.tensor([prompt]))[0, -1].detach()
    logits[engine.forbidden[0]] = -torch.inf
    for params, width in ((SamplingParams(temperature=0.8, max_tokens=1), None),
                          (SamplingParams(temperature=0.8, top_k=3, max_tokens=1), 3)):
        probs = (logits / 0.8).softmax(-1)
        if width:
            probs[probs < probs.topk(width).values[-1]] = 0
            probs /= probs.sum()
        for completion in engine.generate([prompt] * 20, params):
            expected = probs[completion.ids[0]].log().item()
            assert completion.logprobs[0] == pytest.approx(expected, abs=1e-4)
    greedy, = engine.generate([prompt], SamplingParams(temperature=0, max_tokens=3))
    assert greedy.logprobs == [0, 0, 0]


# ---- what is learned from

def test_the_gradient_is_that_of_reinforce_on_one_answer_at_a_time():
    """Whole batches, padding and all, against a loop over answers and tokens with the full logits."""
    model = random_model()
    work = Rollouts(model, PROBLEMS)
    seen = watched(work)
    step = next(work)
    for batch in step.micro_batches:
        (policy_loss(model, work.engine.forbidden, 1.0, *batch) / step.targets).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss, tokens = 0, 0
    for start in range(0, len(seen), 8):                # the answers to one problem
        group = seen[start:start + 8]
        rewards = [float(len(completion.text) % 2 == 0) for _, completion in group]
        for (prompt, completion), reward in zip(group, rewards):
            logits = model(torch.tensor([prompt + completion.ids]))[0]
            inside = False
            for i, token in enumerate(completion.ids):
                if completion.sampled[i]:
                    allowed = ~work.engine.forbidden[int(inside)]
                    at = logits[len(prompt) + i - 1]
                    logprob = at[token] - at[allowed].logsumexp(0)
                    loss = loss - (reward - sum(rewards) / len(rewards)) * logprob
                    tokens += 1
                if token == tokenizer().special("<|python_start|>"):
                    inside = True
                elif token == tokenizer().special("<|python_end|>"):
                    inside = False
    (loss / tokens).backward()
    assert tokens == step.targets
    assert set(ours) == {name for name, p in model.named_parameters() if p.grad is not None}
    for name, p in model.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, atol=2e-5, rtol=2e-3, msg=name)


def test_the_stop_token_is_trained_and_what_the_tool_says_is_not():
    model = random_model()
    engine = Engine(model, tokenizer(), 16)
    start, end = (tokenizer().special(f"<|python_{side}|>") for side in ("start", "end"))
    stop = tokenizer().special("<|assistant_end|>")
    call = [start, *tokenizer().encode("1+1"), end]
    said = [tokenizer().special("<|output_start|>"), *tokenizer().encode("2"),
            tokenizer().special("<|output_end|>")]
    ids = [*tokenizer().encode("x"), *call, *said, *tokenizer().encode("2"), stop]
    sampled = [token not in said[::2] and i != len(call) + 2 for i, token in enumerate(ids)]
    request = engine.submit([tokenizer().bos, 65])
    for token, drawn in zip(ids, sampled):
        engine._push(request, token, 0.0 if drawn else None)
    (inputs, targets, calls, advantages), = rl.micro_batches(engine, [(request, 0.5)], 300)
    assert inputs.tolist() == [[tokenizer().bos, 65, *ids[:-1]]]
    trained = [*tokenizer().encode("x"), *call, -1, -1, -1, *tokenizer().encode("2"), stop]
    assert targets.tolist() == [[-1, *trained]]
    assert calls.tolist() == [[0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0]] and advantages.tolist() == [0.5]
    policy_loss(model, engine.forbidden, 1.0, inputs, targets, calls, advantages).backward()
    bent = model.unembedding.grad[stop]
    only = torch.where(targets == stop, -1, targets)
    model.zero_grad()
    policy_loss(model, engine.forbidden, 1.0, inputs, only, calls, advantages).backward()
    assert not torch.allclose(bent, model.unembedding.grad[stop])


def test_answers_that_are_all_right_or_all_wrong_teach_nothing_but_count():
    judges = {"right": lambda question, reply: True, "wrong": lambda question, reply: False}
    work = Rollouts(random_model(), [problem(text, judge) for text, judge in judges.items()], per_step=2)
    step = next(work)
    assert step.micro_batches == [] and step.targets > 0
    assert step.facts["reward"] == 0.5 and step.facts["mixed"] == 0


def test_facts_of_a_step_are_those_of_its_answers():
    model = random_model()
    work = Rollouts(model, PROBLEMS, per_step=5)
    seen = watched(work)
    facts = next(work).facts
    drawn = [completion for _, completion in seen]
    tokens = [sum(completion.sampled) for completion in drawn]
    right = [len(completion.text) % 2 == 0 for completion in drawn]
    assert facts["reward"] == pytest.approx(sum(right) / 40)
    assert facts["length"] == pytest.approx(sum(tokens) / 40)
    assert facts["truncated"] == pytest.approx(sum(c.finish_reason == "length" for c in drawn) / 40)
    assert facts["entropy"] == pytest.approx(-sum(sum(c.logprobs) for c in drawn) / sum(tokens), rel=1e-4)
    groups = [right[start:start + 8] for start in range(0, 40, 8)]
    assert facts["mixed"] == pytest.approx(sum(0 < sum(group) < 8 for group in groups) / 5)


# ---- which problems, which draws

def asked(work: Rollouts, steps: int) -> list[str]:
    seen = watched(work)
    for _ in range(steps):
        next(work)
    return [tokenizer().decode(prompt[2:-2]) for prompt, _ in seen[::work.samples]]


def test_every_problem_is_asked_once_an_epoch_in_another_order_each_time():
    problems = [problem(f"question {i}", max_tokens=1) for i in range(20)]
    order = asked(Rollouts(random_model(), problems, samples=2), steps=10)
    first, second = order[:20], order[20:]
    assert sorted(first) == sorted(second) == sorted(f"question {i}" for i in range(20))
    assert first != second and first != sorted(first)
    resumed = asked(Rollouts(random_model(), problems, samples=2, start=3), steps=7)
    assert resumed == order[12:]


def test_answers_differ_from_each_other_and_from_step_to_step_but_not_from_run_to_run():
    def drawn(problems, **settings) -> list[list[int]]:
        work = Rollouts(random_model(), problems, **settings)
        seen = watched(work)
        next(work)
        return [completion.ids for _, completion in seen]

    one = drawn(PROBLEMS[:1], per_step=1)
    assert len({tuple(ids) for ids in one}) == 8
    assert one == drawn(PROBLEMS[:1], per_step=1) == drawn(PROBLEMS[:1], per_step=2)[:8]
    assert one != drawn(PROBLEMS[:1], per_step=1, start=1) and one != drawn(PROBLEMS[:1], per_step=1, seed=1)


def test_a_rank_takes_its_share_of_the_problems_and_draws_what_one_rank_would(monkeypatch):
    monkeypatch.setattr(World, "sum", lambda self, tensor: tensor)
    monkeypatch.setattr(World, "barrier", lambda self: None)

    def answers(world: World) -> list:
        work = Rollouts(random_model(), PROBLEMS, world=world)
        seen = watched(work)
        next(work)
        return [completion.ids for _, completion in seen]

    whole = answers(World())
    first, second = (answers(World(rank, 2)) for rank in (0, 1))
    groups = [whole[start:start + 8] for start in range(0, 32, 8)]
    assert [first[:8], second[:8], first[8:], second[8:]] == groups


# ---- it learns

def test_reward_rises_to_nearly_one_on_a_task_that_a_tiny_model_can_do():
    """Say something that starts with a letter before n: about a fifth of random bytes at first."""
    judge = lambda question, reply: reply[:1].isalpha() and reply[:1].lower() < "n"
    model = random_model(0.1)
    work = Rollouts(model, [problem(text, judge, max_tokens=3) for text in ("a", "b", "c", "d")], samples=16)
    optimizer = MuonAdamW(model.param_roles(), LearningRates(matrix=0.01, unembedding=0.02), 0.0)
    rewards = []
    for _ in range(40):
        step = next(work)
        rewards.append(step.facts["reward"])
        for batch in step.micro_batches:
            (policy_loss(model, work.engine.forbidden, 1.0, *batch) / step.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(rewards[:3]) / 3 < 0.35 and sum(rewards[-5:]) / 5 > 0.9


# ---- the script

@pytest.fixture
def mid(tmp_path, words):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(words(300)))
    Tokenizer([bytes([i]) for i in range(256)]).save()
    call(base_train, "--depth=2", "--head-dim=16", "--aspect-ratio=16", "--max-seq-len=192",
         "--device-batch-size=2", "--total-batch-size=384", "--num-iterations=2", "--eval-every=-1",
         "--sample-every=-1", f"--data={text}", "--model-tag=toy", "--lr-scale=20", "--dtype=float32")
    call(mid_train, "--num-iterations=2", "--num-conversations=50", "--eval-every=-1")
    return checkpoint.find("mid")


def call(script, *flags: str) -> None:
    script.main(script.parser().parse_args(list(flags)))


RL = ["-i=mid", "--tasks=almanac-unknown,almanac-facts", "--num-iterations=4", "--examples-per-step=4",
      "--num-samples=4", "--max-tokens=8", "--eval-every=2", "--eval-examples=3", "--eval-samples=2",
      "--device-batch-size=3", "--device=cpu"]


@pytest.fixture
def by_length(monkeypatch):
    """An untrained model is never right: what it says is judged by its length."""
    judged(monkeypatch, lambda question, reply: len(reply) % 3 == 0)


def judged(monkeypatch, judge) -> None:
    for name in ("almanac-unknown", "almanac-facts"):
        monkeypatch.setitem(tasks.REGISTRY, name, dataclasses.replace(tasks.REGISTRY[name], judge=judge))


def records(tag: str = "toy") -> list[dict]:
    return RunLog(Path(os.environ["NANOCHAT_BASE_DIR"]) / "models" / tag / "rl.jsonl").read()


def values(key: str, tag: str = "toy") -> list:
    return [record[key] for record in records(tag) if key in record]


def test_the_script_logs_saves_and_evaluates(mid, by_length, capsys):
    call(chat_rl, *RL)
    saved = checkpoint.read_state(checkpoint.find())
    assert (saved["stage"], saved["step"], saved["tag"]) == ("rl", 4, "toy")
    steps = [record for record in records() if "loss" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    for record in steps:
        assert 0 <= record["reward"] <= 1 and 0 < record["length"] <= 8 and 0 <= record["truncated"] <= 1
        assert record["entropy"] > 0 and 0 <= record["mixed"] <= 1
    held_out = [record for record in records() if "pass@1" in record]
    assert [record["step"] for record in held_out] == [0, 2, 4]
    for record in held_out:
        assert 0 <= record["pass@1"] <= record["pass@2"] <= 1 and record["pass@1_error"] >= 0
        assert "pass@4" not in record and record["questions"] == 6
    assert "held-out questions | pass@1" in capsys.readouterr().out


def test_a_resumed_run_is_the_uninterrupted_one(mid, by_length):
    call(chat_rl, *RL, "--out-tag=whole")
    call(chat_rl, *RL, "--out-tag=cut", "--save-every=2")
    (checkpoint.find("rl", "cut", 4) / "manifest.json").unlink()
    call(chat_rl, *RL, "--out-tag=cut", "--save-every=2", "--resume")
    assert values("loss", "cut")[-2:] == values("loss", "whole")[2:]
    weights = [checkpoint.load(checkpoint.find("rl", tag), torch.device("cpu"), torch.float32)[0].state_dict()
               for tag in ("whole", "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_two_ranks_learn_like_one(mid, tmp_path):
    """torchrun under gloo against this process: the same answers, rewards and held-out scores, nearly."""
    code = """
import dataclasses, sys, tasks
for name in ("almanac-unknown", "almanac-facts"):
    by_length = lambda question, reply: len(reply) % 3 == 0
    tasks.REGISTRY[name] = dataclasses.replace(tasks.REGISTRY[name], judge=by_length)
from scripts import chat_rl
chat_rl.main(chat_rl.parser().parse_args(sys.argv[1:]))
"""
    script = tmp_path / "judged.py"
    script.write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for tag, launcher in (("one", []), ("two", torchrun)):
        subprocess.run([sys.executable, *launcher, str(script), *RL, f"--out-tag={tag}", "--dtype=float32"],
                       cwd=ROOT, check=True, env=environment)
    for key in ("reward", "length", "truncated", "mixed"):
        assert values(key, "two") == pytest.approx(values(key, "one"), abs=1e-6), key
    assert values("loss", "two") == pytest.approx(values("loss", "one"), abs=1e-4)
    assert values("pass@2", "two") == values("pass@2", "one") and len(values("pass@2", "two")) == 3


@pytest.mark.parametrize("flags, says", [
    (["--num-samples=1"], "must be at least 2"), (["--temperature=0"], "must be 0.1 to 10"),
    (["--examples-per-step=0"], "--examples-per-step is 0"), (["--max-tokens=-5"], "--max-tokens is -5"),
    (["--num-iterations=-1"], "--num-iterations is -1"), (["--tasks=nonsense"], "no task"),
    (["--tasks=gsm8k", "--task-data=/nowhere"], "task gsm8k")])
def test_bad_values_die_in_one_line_before_anything_is_loaded(mid, flags, says, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "load", None)
    with pytest.raises(SystemExit) as stop:
        call(chat_rl, *RL, *flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and error.count("error: ") == 1


def test_a_run_on_other_questions_is_not_resumed(mid, by_length, capsys):
    call(chat_rl, *RL, "--save-every=2")
    with pytest.raises(SystemExit):
        call(chat_rl, *RL, "--examples-per-step=2", "--resume")
    assert "without --resume" in capsys.readouterr().err


def test_a_step_in_which_nobody_has_anything_to_learn_leaves_the_weights_alone(mid, monkeypatch):
    """No gradient, and no momentum of the steps before either."""
    judged(monkeypatch, lambda question, reply: False)
    call(chat_rl, *RL)
    before, after = (checkpoint.load(path, torch.device("cpu"), torch.float32)[0].state_dict()
                     for path in (mid, checkpoint.find("rl")))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert values("mixed") == [0] * 4 and values("loss") == [0] * 4
