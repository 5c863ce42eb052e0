"""Does an exported folder answer as the model that it was made of? Asked by transformers alone: this runs as
a file in a process of its own, and imports nothing of this repository.

    python -P nanochat/hf_check.py FOLDER EXPECTED      # prints the first difference; then exit code 1"""
import json
import os
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

LARGEST, MEAN = 2e-3, 0.5           # differences of logits that may be rounding: of any in fp32, mean in bf16

def places(what: str, found: list[int], wanted: list[int]) -> Iterator[str]:
    """Where the numbers differ first, if they do."""
    if found != wanted:
        at = next(place for place, (a, b) in enumerate(zip_longest(found, wanted)) if a != b)
        yield f"{what} are {found[at:at + 8]} from place {at} on, should be {wanted[at:at + 8]}"

def tokenizer_differences(tokenizer, expected: dict) -> Iterator[str]:
    for text, ids in expected["texts"]:
        yield from places(f"the tokens of {text!r}", tokenizer(text)["input_ids"], ids)
        if (found := tokenizer.decode(ids)) != text:
            yield f"the tokens of {text!r} become the text {found!r}"
    for talk in expected["conversations"]:
        messages, asked = talk["messages"], {"return_dict": True, "return_assistant_tokens_mask": True}
        whole = tokenizer.apply_chat_template(messages, **asked)
        yield from places(f"the template's tokens of {messages}", whole["input_ids"], talk["ids"])
        if talk["mask"]:
            yield from places(f"the template's mask of {messages}", whole["assistant_masks"], talk["mask"])
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
        yield from places(f"the template's prompt of {messages}", prompt["input_ids"], talk["prompt"])

@torch.no_grad()
def model_differences(model, expected: dict, logits: dict[str, Tensor]) -> Iterator[str]:
    """Of each prompt at once and in pieces over a cache, of all in a padded batch, and of what follows."""
    prompts = expected["prompts"]
    padding = [max(map(len, prompts)) - len(prompt) for prompt in prompts]
    idx = torch.tensor([[0] * count + prompt for count, prompt in zip(padding, prompts, strict=True)])
    mask = (torch.arange(idx.size(1)) >= torch.tensor(padding)[:, None]).long()
    batch = model(idx, attention_mask=mask).logits
    for number, prompt in enumerate(prompts):
        row, wanted, cut = torch.tensor([prompt]), logits[str(number)], len(prompt) // 2
        yield from gap("a prompt", model(row.expand(2, -1)).logits[1], wanted, model.dtype)
        first = model(row[:, :cut], use_cache=True)
        pieces = [first.logits[0]] + [model(piece, past_key_values=first.past_key_values).logits[0]
                                      for piece in (row[:, cut:-2], row[:, -2:-1], row[:, -1:])]
        yield from gap("a prompt in pieces", torch.cat(pieces), wanted, model.dtype)
        yield from gap("a prompt in a padded batch", batch[number, padding[number]:], wanted, model.dtype)
    if model.dtype == torch.float32:                    # else rounding decides between near ones
        new, model.generation_config.eos_token_id = len(expected["continued"][0]) - len(prompts[0]), None
        written = model.generate(idx, attention_mask=mask, max_new_tokens=new, do_sample=False).tolist()
        for row, count, wanted in zip(written, padding, expected["continued"], strict=True):
            yield from places("the tokens of generate()", row[count:], wanted)

def gap(what: str, found: Tensor, wanted: Tensor, dtype: torch.dtype) -> Iterator[str]:
    apart = (found.float() - wanted).abs()
    value, bound = (apart.max(), LARGEST) if dtype == torch.float32 else (apart.mean(), MEAN)
    if not value <= bound:                              # NaN is a difference, too
        yield f"the logits of {what} in {dtype} are {value:.4g} apart, of which {bound} could be rounding"

def main(folder: Path, expectations: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging
    logging.disable_progress_bar()
    expected = json.loads((expectations / "expected.json").read_text())
    logits = load_file(expectations / "expected.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    found = list(tokenizer_differences(tokenizer, expected))
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=dtype).eval()
        found += model_differences(model, expected, logits)
    if found:
        print(f"{found[0]} (the first difference of {len(found)})")
        sys.exit(1)

if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main(*map(Path, sys.argv[1:]))
