"""
Ask a chat model held-out questions and say how many it gets right, with error bars.

    python -m scripts.chat_eval                                   # newest model, all tasks
    python -m scripts.chat_eval -i sft --tasks almanac-facts --max-questions 500
"""

import argparse

from nanochat import checkpoint
from nanochat.common import die, new_parser
from nanochat.engine import Engine
from nanochat.evals import accuracy, reply_verdicts
from nanochat.stage import Stage, add_stage_arguments, open_stage
from tasks import add_data_arguments, find_tasks
from tasks.common import Task


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("-i", "--stage", choices=checkpoint.STAGES, help="of the model (default: the most finished one)")
    add("--step", type=int, help="of the checkpoint (default: the newest)")
    add("--tasks", default="almanac", help="comma-separated names or groups (default: almanac)")
    add("--max-questions", type=int, default=300, help="per task")
    add("--max-tokens", type=int, default=96, help="of a free answer")
    add("--batch-size", type=int, default=64, help="questions answered at once")
    add("--resume", action="store_true", help="keep the results of this checkpoint that the log has already")
    add("--show", type=int, default=3, help="wrong answers to print per task")
    add_data_arguments(parser)
    add_stage_arguments(parser, model_tag="model to evaluate (default: the newest)")
    return parser


def main(args: argparse.Namespace) -> None:
    tasks = find_tasks(args.tasks)                                              # 1. what is asked
    if args.max_questions < 1:
        die(f"--max-questions is {args.max_questions}, must be at least 1")
    directory = checkpoint.find(args.stage, args.model_tag, args.step)          # 2. whom
    saved = checkpoint.read_state(directory)
    name = checkpoint.identity(directory)
    origin = {"model_stage": saved["stage"], "step": saved["step"], "checkpoint": name}
    with open_stage("eval", args, args.model_tag or saved["tag"], saved["dtype"]) as stage:
        known = known_results(stage, name) if args.resume else {}
        model, tokenizer, _ = checkpoint.load(directory, stage.device, stage.dtype)
        engine = Engine(model.eval().requires_grad_(False), tokenizer, max_batch=args.batch_size)
        stage.begin(model=name)
        stage.print(f"evaluating {directory}")
        for task in tasks:                                                      # 3. go
            questions = task.questions("test", args.max_questions, 0, args.task_data)
            if not questions:
                die(f"task {task.name} has no questions")
            if record := known.get((task.name, len(questions))):
                stage.print(f"{task.name:>20}  {100 * record['accuracy']:5.1f}%  (already evaluated)")
            else:
                evaluate(task, questions, engine, stage, origin)


def known_results(stage: Stage, name: str) -> dict[tuple[str, int], dict]:
    """Records of the log about the checkpoint called `name`, by task and number of questions."""
    records = [record for record in stage.log_file.read() if record.get("checkpoint") == name]
    return {(record["task"], record["questions"]): record for record in records}


def evaluate(task: Task, questions: list[dict], engine: Engine, stage: Stage, origin: dict) -> None:
    """Ask a task's questions; log the accuracy and its standard error, print a few wrong answers."""
    verdicts, replies = reply_verdicts(engine, questions, task.judge, stage.args.max_tokens)
    right, error = accuracy(verdicts)
    chance = f", chance {100 * task.chance:.0f}%" if task.chance else ""
    line = f"{task.name:>20}  {100 * right:5.1f}% +- {100 * error:.1f}  ({len(questions)} questions{chance})"
    stage.log(line, task=task.name, **origin, accuracy=right, standard_error=error, chance=task.chance,
              questions=len(questions))
    wrong = [index for index, verdict in enumerate(verdicts) if not verdict]
    for index in wrong[:stage.args.show]:
        asked = questions[index]["conversation"]["messages"][-1]["content"]
        stage.print(f"{'':>22}{asked!r} -> {replies[index]!r}, not {questions[index]['answer']!r}")


if __name__ == "__main__":
    main(parser().parse_args())
