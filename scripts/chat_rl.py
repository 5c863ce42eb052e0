"""Reinforcement learning: the model answers questions, a judge says which answers are right, and those become
likelier. On GSM8K, or on the questions of the embedded almanac.

    python -m scripts.chat_rl                                         # GSM8K, from the newest finetuned model
    python -m scripts.chat_rl --tasks=almanac-arithmetic --num-iterations=50
"""
import argparse
from functools import partial
from nanochat import checkpoint, finetune
from nanochat.common import die, require_positive
from nanochat.engine import Engine, SamplingParams
from nanochat.evals import ask, pass_at_k
from nanochat.rl import policy_loss, rollouts
from nanochat.stage import Stage
from tasks import add_data_arguments, find_questions
from tasks.common import Task

def parser() -> argparse.ArgumentParser:
    parser = finetune.finetune_parser(__doc__, lr_frac=0.05, conversations=False)
    add = parser.add_argument
    add("-i", "--stage", choices=("sft", "mid"), default="sft", help="stage to go on from")
    add("--tasks", default="gsm8k", help="comma-separated names or groups (default: gsm8k)")
    add("--examples-per-step", type=int, default=16, help="questions of a step, over all ranks")
    add("--num-samples", type=int, default=16, help="answers to each question")
    add("--max-tokens", type=int, help="of an answer (default: as the task needs)")
    add("--temperature", type=float, default=1.0, help="at which answers are drawn, and scored")
    add("--rollout-batch", type=int, default=128, help="answers that are written at once on one device")
    add("--eval-examples", type=int, default=400, help="held-out questions of an evaluation, per task")
    add("--eval-samples", type=int, default=8, help="answers to each of them: pass@1 to pass@8")
    add_data_arguments(parser)
    return parser

def main(args: argparse.Namespace) -> None:
    require_positive(args, "examples_per_step", "rollout_batch", "eval_examples", "eval_samples",
                     "max_tokens", "num_iterations")
    if args.num_samples < 2:
        die(f"--num-samples is {args.num_samples}, must be at least 2: an answer is measured by the others")
    if not 0.1 <= args.temperature <= 10:
        die(f"--temperature is {args.temperature}, must be 0.1 to 10: answers have to differ")
    source = checkpoint.find(args.stage, args.model_tag, args.step)             # 1. from where
    train = [(question, task.judge, args.max_tokens or task.max_tokens)         # 2. on what
             for task, questions in find_questions(args, "train", None) for question in questions]
    held_out = find_questions(args, "test", args.eval_examples)
    data = (f"{len(train):,} questions of {args.tasks}, {args.examples_per_step} a step x {args.num_samples} "
            f"samples of at most {max(most for _, _, most in train)} tokens at temperature "
            f"{args.temperature}, seed {args.seed}")
    with finetune.go_on("rl", args, source, data) as this:                      # 3. how
        stage, model, T = this.stage, this.model, this.model.shape.sequence_len
        rows = args.device_batch_size or max(1, (16384 if stage.device.type == "cuda" else 4096) // T)
        engine = Engine(model, this.tokenizer, args.rollout_batch)
        work = rollouts(engine, train, per_step=args.examples_per_step, samples=args.num_samples,
                        temperature=args.temperature, tokens=rows * T, seed=args.seed, world=stage.world,
                        start=this.start)
        this.train(work, partial(policy_loss, model, engine.forbidden, args.temperature),
                   partial(evaluate, engine, held_out, stage), new_goal=True,   # 4. go
                   steps=args.num_iterations or max(1, len(train) // args.examples_per_step),
                   scale=args.init_lr_frac, rows=rows, batch_tokens=this.saved["batch_tokens"])

def evaluate(engine: Engine, held_out: list[tuple[Task, list[dict]]], stage: Stage, step: int) -> None:
    """Log pass@1 .. pass@n on held-out questions with their standard errors; all ranks share the work."""
    args, counts, n = stage.args, [], stage.args.eval_samples
    for task, questions in held_out:
        most = args.max_tokens or task.max_tokens
        params = SamplingParams(args.temperature, max_tokens=most, seed=args.seed)
        verdicts = ask(engine, questions, task.judge, params, n, stage.world, task.name)
        counts += [sum(right) * n // len(right) for right in verdicts]      # a letter is asked for once
    line, results = f"rl {step:5d} | {len(counts)} held-out questions", {}
    for k in [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= n]:
        share, error = pass_at_k(counts, n, k)
        line += f" | pass@{k} {100 * share:.1f}% +- {100 * error:.1f}"
        results |= {f"pass@{k}": share, f"pass@{k}_error": error}
    stage.log(line, step=step, questions=len(counts), **results)
    engine.reset()                                      # its cache would stand beside the training step

if __name__ == "__main__":
    main(parser().parse_args())
