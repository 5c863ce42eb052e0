"""Ask a model held-out questions and say how many it gets right, with 95% intervals.

    python -m scripts.chat_eval                                   # newest model, the embedded almanac
    python -m scripts.chat_eval -i sft --tasks chatcore --max-questions 0       # the six of ChatCORE, whole
    python -m scripts.chat_eval --tasks gsm8k --num-samples 8     # pass@1 ... pass@8

ChatCORE is the mean of (accuracy - chance) / (1 - chance) over six tasks, the almanac's over five."""
import argparse
from nanochat import checkpoint, execution
from nanochat.common import die, new_parser, require_positive
from nanochat.engine import Engine, SamplingParams
from nanochat.evals import Z, ask, centred, pass_at_k, percent, wilson
from nanochat.stage import Stage, add_stage_arguments, open_stage
from tasks import GROUPS, add_data_arguments, find_questions
from tasks.common import Task

MEANS = {"almanac": "almanac, mean", "chatcore": "ChatCORE"}      # of groups, as they are logged

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("-i", "--stage", choices=checkpoint.STAGES, help="of the model (default: the most finished one)")
    add("--step", type=int, help="of the checkpoint (default: the newest)")
    add("--tasks", default="almanac", help="names or groups (chatcore, almanac: the default), with commas")
    add("--max-questions", type=int, default=300, help="per task (default: 300; zero or less: all)")
    add("--num-samples", type=int, default=1, help="answers to each free question, for pass@k")
    add("--temperature", type=float, help="of free answers (default: 0, or 1 for several samples)")
    add("--max-tokens", type=int, help="of a free answer (default: what the task needs)")
    add("--batch-size", type=int, default=64, help="answers under way at once")
    add("--unsafe-execution", action="store_true", help="run model programs even where nothing isolates them")
    add("--resume", action="store_true", help="keep the results of this checkpoint that the log has already")
    add_data_arguments(parser)
    add_stage_arguments(parser, model_tag="model to evaluate (default: the newest)")
    return parser

def main(args: argparse.Namespace) -> None:
    require_positive(args, "num_samples", "batch_size", "max_tokens")           # 1. what is asked, and how
    if args.temperature is None:
        args.temperature = 0.0 if args.num_samples == 1 else 1.0
    if not 0 <= args.temperature <= 100:
        die(f"--temperature is {args.temperature}, must be 0 to 100")
    asked = find_questions(args, "test", args.max_questions if args.max_questions > 0 else None)
    directory = checkpoint.find(args.stage, args.model_tag, args.step)          # 2. whom
    saved, name = checkpoint.read_state(directory), checkpoint.identity(directory)
    origin = {"model_stage": saved["stage"], "step": saved["step"], "checkpoint": name}
    with open_stage("eval", args, args.model_tag or saved["tag"], saved["dtype"]) as stage:
        asked = isolated(asked, stage)
        log = stage.log_file.read() if args.resume else []
        model, tokenizer, _ = checkpoint.load(directory, stage.device, stage.dtype)
        stage.agree(str([(task.name, len(questions)) for task, questions in asked]))
        engine = Engine(model.eval().requires_grad_(False), tokenizer, max_batch=args.batch_size)
        stage.begin(f"evaluating {directory}", model=name)
        results = {}
        for task, questions in asked:                                           # 3. go
            facts = {"task": task.name, **origin, "questions": len(questions), "samples": args.num_samples,
                     "temperature": args.temperature, "max_tokens": args.max_tokens or task.max_tokens,
                     "seed": args.seed}
            known = [record for record in log if facts.items() <= record.items()]
            if known:
                stage.print(f"{task.name:>20}  {100 * known[-1]['accuracy']:5.1f}%  (already evaluated)")
            results[task.name] = known[-1] if known else evaluate(task, list(questions), engine, stage, facts)
        summarise(results, stage, origin)

def isolated(asked: list, stage: Stage) -> list:
    """The tasks, without those of model-written programs where nothing would stand between these and the
    machine and --allow-missing is given. Says what does."""
    args, others = stage.args, [each for each in asked if each[0].name != "humaneval"]
    if len(others) < len(asked):
        unsafe = "namespaces" not in execution.isolation() and not args.unsafe_execution
        if args.allow_missing and unsafe:
            stage.print("without humaneval: its programs cannot be isolated here")
            return others
        stage.print(execution.require_isolation(args.unsafe_execution))
    return asked

def evaluate(task: Task, questions: list[dict], engine: Engine, stage: Stage, facts: dict) -> dict:
    """Ask a task's questions; log and return how many are right, with errors."""
    params = SamplingParams(facts["temperature"], max_tokens=facts["max_tokens"], seed=stage.args.seed)
    verdicts = ask(engine, questions, task.judge, params, facts["samples"], stage.world, task.name)
    counts, n = [sum(each) for each in verdicts], len(verdicts[0])
    pass_at = {k: pass_at_k(counts, n, k) for k in range(1, n + 1)}     # with standard errors
    right, error = pass_at[1]
    # several samples of a question say less than as many questions: as many as would have this error
    effective = min(right * (1 - right) / error ** 2, len(questions) * n) if error else len(questions)
    record = facts | {"accuracy": right, "standard_error": error, "interval": wilson(right, effective),
                      "chance": task.chance}
    record |= {"pass_at": pass_at} if n > 1 else {"verdicts": "".join(map(str, counts))}
    chance = f", chance {100 * task.chance:.0f}%" if task.chance else ""
    passed = f", pass@{n} {100 * pass_at[n][0]:.1f}% +- {100 * pass_at[n][1]:.1f}" if n > 1 else ""
    stage.log(f"{task.name:>20}  {percent(record)}  ({len(questions)} questions{chance}{passed})", **record)
    return record

def summarise(results: dict[str, dict], stage: Stage, origin: dict) -> None:
    """Log the mean of the centred accuracies of each group of which this run asked all tasks."""
    for group, members in GROUPS.items():
        if results.keys() >= set(members):
            found = [results[name] for name in members]
            score, error = centred(found)
            mean = {"accuracy": score, "interval": [score - Z * error, score + Z * error], "chance": 0.0}
            stage.log(f"{MEANS[group]:>20}  {percent(mean)}  (chance = 0)", task=MEANS[group], **origin,
                      **mean, standard_error=error, questions=sum(each["questions"] for each in found))

if __name__ == "__main__":
    main(parser().parse_args())
