"""
Ask a chat model held-out questions and say how many it gets right, with error bars.

    python -m scripts.chat_eval                                   # newest model, all tasks
    python -m scripts.chat_eval -i sft --tasks almanac-facts --max-questions 500
"""

import argparse

from nanochat import checkpoint
from nanochat.common import die
from nanochat.engine import Engine
from nanochat.evals import accuracy, reply_verdicts
from nanochat.stage import Stage, add_stage_arguments, open_stage
from tasks.common import Task, find_tasks


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--source", choices=checkpoint.STAGES, help="stage (default: the most finished one)")
    parser.add_argument("--step", type=int, help="checkpoint (default: the newest)")
    parser.add_argument("--tasks", default="", help="comma-separated names (default: all)")
    parser.add_argument("--max-questions", type=int, default=300, help="a task")
    parser.add_argument("--max-tokens", type=int, default=96, help="of a free answer")
    parser.add_argument("--batch-size", type=int, default=64, help="questions answered at once")
    parser.add_argument("--resume", action="store_true", help="keep results of this checkpoint that are in the log already")
    parser.add_argument("--show", type=int, default=3, help="wrong answers to print a task")
    add_stage_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    tasks = find_tasks(args.tasks)
    if args.max_questions < 1:
        die(f"--max-questions is {args.max_questions}, must be at least 1")
    directory = checkpoint.find(args.source, args.model_tag, args.step)
    with open_stage("eval", args, directory.parent.parent.name) as stage:
        model, tokenizer, state = checkpoint.load(directory, stage.device, stage.dtype)
        model.eval().requires_grad_(False)
        engine = Engine(model, tokenizer, max_batch=args.batch_size)
        stage.begin(model=f"{state['stage']} {state['step']}")
        stage.print(f"evaluating {directory}")
        known = {(record.get("task"), record.get("checkpoint"), record.get("questions")): record
                 for record in stage.log_file.read()} if args.resume else {}
        for task in tasks:
            name = f"{directory.name} {checkpoint.created(directory)}"
            if record := known.get((task.name, name, args.max_questions)):
                stage.print(f"{task.name:>20}  {100 * record['accuracy']:5.1f}%  (already evaluated)")
            else:
                evaluate(task, engine, stage, source=state["stage"], step=state["step"], checkpoint=name)


def evaluate(task: Task, engine: Engine, stage: Stage, **origin) -> None:
    """Ask one task's questions; log the accuracy, its standard error, and print a few wrong answers."""
    args = stage.args
    questions = task.questions(args.max_questions)
    if not questions:
        die(f"task {task.name} has no questions")
    verdicts, replies = reply_verdicts(engine, questions, task.judge, args.max_tokens)
    right, error = accuracy(verdicts)
    stage.log(task=task.name, **origin, accuracy=right, standard_error=error,
              chance=task.chance, questions=len(questions),
              line=f"{task.name:>20}  {100 * right:5.1f}% +- {100 * error:.1f}  ({len(questions)} questions"
                   + (f", chance {100 * task.chance:.0f}%)" if task.chance else ")"))
    wrong = [i for i, verdict in enumerate(verdicts) if not verdict]
    for i in wrong[:args.show]:
        question = questions[i]["conversation"]["messages"][-1]["content"]
        stage.print(f"{'':>22}{question!r} -> {replies[i]!r}, not {questions[i]['answer']!r}")


if __name__ == "__main__":
    main(parser().parse_args())
