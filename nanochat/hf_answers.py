"""What an exported folder answers, by transformers alone: run as a file in a process of its own, this imports
nothing of this repository. export.py asks, and compares with the model that the folder was made of.

    python -P nanochat/hf_answers.py FOLDER WORK    # questions.json there -> answers.json, .safetensors"""
import json
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from torch import Tensor

def texts_of(tokenizer, texts: list[str], conversations: list[list[dict]]) -> dict[str, list]:
    rendered = [tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
                for messages in conversations]
    prompts = [tokenizer.apply_chat_template(messages[:-1], return_dict=True, add_generation_prompt=True)
               for messages in conversations]
    ids = tokenizer(texts)["input_ids"]
    return {"tokens": ids, "texts": tokenizer.batch_decode(ids),
            "prompts": [each["input_ids"] for each in prompts],
            "conversations": [each["input_ids"] for each in rendered],
            "masks": [each["assistant_masks"] for each in rendered]}

@torch.no_grad()
def logits_of(model, prompts: list[list[int]]) -> dict[str, Tensor]:
    """(tokens, V) of each prompt: in a batch, in pieces over a cache, and in a batch padded on the left."""
    padding = [max(map(len, prompts)) - len(prompt) for prompt in prompts]
    padded = torch.tensor([[0] * count + prompt for count, prompt in zip(padding, prompts, strict=True)])
    mask = (torch.arange(padded.size(1)) >= torch.tensor(padding)[:, None]).long()
    batch, found = model(padded, attention_mask=mask).logits, {}
    for number, prompt in enumerate(prompts):
        row, cut = torch.tensor([prompt]), len(prompt) // 2
        first = model(row[:, :cut], use_cache=True)
        pieces = [model(piece, past_key_values=first.past_key_values).logits[0]
                  for piece in (row[:, cut:-2], row[:, -2:-1], row[:, -1:])]
        found |= {f"{number} in a batch": model(row.expand(2, -1)).logits[1],
                  f"{number} in pieces": torch.cat([first.logits[0], *pieces]),
                  f"{number} padded": batch[number, padding[number]:]}
    model.generation_config.eos_token_id = None
    added = model.generate(padded, attention_mask=mask, max_new_tokens=6, do_sample=False)
    return found | {"generated": added[:, padded.size(1):]}

def main(folder: Path, work: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging
    logging.disable_progress_bar()
    questions, found = json.loads((work / "questions.json").read_text()), {}
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    answers = texts_of(tokenizer, questions["texts"], questions["conversations"])
    for name in ("float32", "bfloat16"):
        load = {"trust_remote_code": True, "dtype": getattr(torch, name)}
        model = AutoModelForCausalLM.from_pretrained(folder, **load).eval()
        answered = logits_of(model, questions["prompts"])
        found |= {f"{name} {what}": tensor.contiguous() for what, tensor in answered.items()}
    (work / "answers.json").write_text(json.dumps(answers))
    save_file(found, work / "answers.safetensors")

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
