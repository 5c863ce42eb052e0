"""How good a base model is: bits per byte of text that it has learned and that it has not, CORE, samples.

    python -m scripts.base_eval                         # newest base model, on the text it was trained on
    torchrun --standalone --nproc_per_node=8 -m scripts.base_eval -- --source=climbmix
    python -m scripts.base_eval --hf=openai-community/gpt2 --data ~/texts     # any model of Hugging Face's
CORE is asked of the published bundle, fetched once, or where the almanac was learned of one made of that."""
import argparse
from contextlib import suppress
from pathlib import Path
from nanochat import checkpoint, dataset
from nanochat.common import die, new_parser, require_positive
from nanochat.core_eval import BUNDLE_HELP, Reader, evaluate_core, open_bundle
from nanochat.dataloader import BYTES_PER_TOKEN, validation
from nanochat.evals import continuations, evaluate_bpb
from nanochat.stage import add_stage_arguments, open_stage

WHAT = ("bpb", "core", "sample")

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    dataset.add_arguments(parser)
    add("-i", "--stage", choices=checkpoint.STAGES, default="base")
    add("--step", type=int, help="checkpoint (default: the newest)")
    add("--hf", help="a causal language model of Hugging Face's instead: repository or folder")
    add("--eval", help="bpb, core, sample, with commas (default: all; no core where no bundle can be had)")
    add("--eval-tokens", type=int, default=2 ** 20,
        help=f"of each split, at most; {BYTES_PER_TOKEN} bytes of text are one, whatever the tokenizer")
    add("--device-batch-size", type=int, help="rows of a micro-batch on one device (default: as trained)")
    add("--core-bundle", help=BUNDLE_HELP)
    add("--max-per-task", type=int, help="examples of each CORE task (default: all)")
    add("--resume", action="store_true", help="keep the results of this checkpoint that the log has already")
    add("--trust-remote-code", action="store_true", help="run the code that a model of --hf brings")
    add_stage_arguments(parser)
    return parser

def main(args: argparse.Namespace) -> None:
    require_positive(args, "eval_tokens", "device_batch_size", "max_per_task")
    wanted = args.eval.split(",") if args.eval else WHAT
    if unknown := set(wanted) - set(WHAT):
        die(f"--eval {', '.join(sorted(unknown))}: must be of {', '.join(WHAT)}")
    if args.hf:                                                                 # 1. whom
        whom, name = args.hf, args.hf
        saved = {"tag": Path(args.hf).name if Path(args.hf).exists() else args.hf.replace("/", "--"),
                 "stage": "hf", "step": 0, "dtype": None, "text": None, "rows": 4}
    else:
        whom = checkpoint.find(args.stage, args.model_tag, args.step)
        saved, name = checkpoint.read_state(whom), checkpoint.identity(whom)
    text = dataset.choose(args, saved["text"])                                  # 2. on what
    data = dataset.prepare(**text) if "bpb" in wanted else None
    bundle, required = None, args.eval or args.core_bundle
    if "core" in wanted:
        with suppress(*() if required else (SystemExit,)):                      # why has been said
            bundle = open_bundle(args.core_bundle, "web" if args.hf else text["source"])
    rows = args.device_batch_size or saved["rows"]
    with open_stage("base_eval", args, args.model_tag or saved["tag"], saved["dtype"]) as stage:
        world = stage.world
        if args.hf:
            from nanochat.foreign import Foreign
            model = reader = tokenizer = Foreign(args.hf, stage.device, stage.dtype, args.trust_remote_code)
        else:
            model, tokenizer, _ = checkpoint.load(whom, stage.device, stage.dtype)
            reader = Reader(model.eval().requires_grad_(False), tokenizer)
        stage.begin(f"evaluating {whom}", model=name, text=text, dataset=data and data.name,
                    validation=data and data.val_sha256)
        known = world.broadcast_object(stage.log_file.read()) if args.resume else []
        origin = {"model_stage": saved["stage"], "step": saved["step"], "checkpoint": name}
        def is_new(result: str, **settings) -> bool:
            facts = (origin | settings).items()
            return not any(result in record and facts <= record.items() for record in known)
        about = {"eval_tokens": args.eval_tokens, "validation": data.val_sha256} if data else {}
        if data and is_new("bpb", split="val", **about):                        # 3. go
            for split, paths in (("train", data.train[:1]), ("val", data.val)):
                bpb = evaluate_bpb(model, validation(tokenizer, paths, rows, reader.context, args.eval_tokens,
                                                     world.rank, world.size), world)
                stage.log(f"{split:>8}  {bpb} of {data.name}", **origin, **about, split=split, bpb=bpb.value,
                          bpb_error=bpb.error, documents=bpb.documents, bytes=bpb.bytes, buckets=bpb.buckets)
        if bundle and is_new("core", bundle_sha256=bundle.sha256, max_per_task=args.max_per_task):
            evaluate_core(reader, bundle, stage, args.max_per_task, **origin)
        if "sample" in wanted and not args.hf and world.is_main and is_new("samples"):
            texts = continuations(model, tokenizer)
            stage.log("\n".join("  > " + each.replace("\n", "\n    ") for each in texts), **origin,
                      samples=texts)

if __name__ == "__main__":
    main(parser().parse_args())
