"""A model in the format of Hugging Face's transformers: a folder of weights, config, tokenizer, template and
hf_model.py, that transformers alone can load; and the proof that it answers as the model does."""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch
import torch
from safetensors.torch import load_file, save_file
from nanochat.chat import render_conversation, render_prompt
from nanochat.gpt import GPT, QK_SCALE, ROPE_BASE, SOFTCAP
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

HERE = Path(__file__).parent
UNTYPABLE = "\ufdd0"                # a code point that Unicode assures never to be a character

def marker(name: str) -> str:
    """What a special token is called in the exported tokenizer, which looks for its name in every text."""
    return name.replace("<|", f"<|{UNTYPABLE}")

def config(model: GPT, tokenizer: Tokenizer) -> dict:
    """config.json: the names of transformers where it has one, else ours."""
    shape, code = model.shape, "modeling_nanochat.Nanochat"
    sizes = [window for window in shape.windows if window < shape.sequence_len]
    kinds = ["sliding_attention" if window in sizes else "full_attention" for window in shape.windows]
    previous = 1 + shape.key_offset * shape.n_layer
    return {
        "model_type": "nanochat_gpt", "architectures": ["NanochatForCausalLM"],
        "auto_map": {"AutoConfig": f"{code}Config", "AutoModel": f"{code}Model",
                     "AutoModelForCausalLM": f"{code}ForCausalLM"},
        "dtype": str(model.dtype).removeprefix("torch."), "vocab_size": shape.vocab_size,
        "hidden_size": shape.n_embd, "intermediate_size": 4 * shape.n_embd, "num_blocks": shape.n_layer,
        "num_hidden_layers": shape.n_layer + previous,
        "layer_types": kinds + ["sliding_attention" if sizes else "full_attention"] * previous,
        "sliding_window": sizes[0] + 1 if sizes else None,              # theirs counts the token itself
        "num_attention_heads": shape.n_head, "num_key_value_heads": shape.n_kv_head,
        "head_dim": shape.head_dim, "max_position_embeddings": shape.sequence_len,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(ROPE_BASE)}, "qk_scale": QK_SCALE,
        "final_logit_softcapping": SOFTCAP, "head_dtype": "float32",            # of vLLM, which caps in it
        "value_layers": shape.value_layers, "key_offset": shape.key_offset, "tie_word_embeddings": False,
        "gate_channels": shape.gate_channels, "smear_channels": shape.smear_channels,
        **special_ids(tokenizer)}

def special_ids(tokenizer: Tokenizer) -> dict:
    """Where generation starts and stops: behind an answer, behind a call, whose result is for the caller to
    put in, and where the next document would begin."""
    ends = [tokenizer.special(name) for name in ("<|assistant_end|>", "<|python_end|>", "<|bos|>")]
    return {"bos_token_id": tokenizer.bos, "eos_token_id": ends, "pad_token_id": tokenizer.bos}

def weights(model: GPT) -> dict[str, torch.Tensor]:
    """All weights by the names of hf_model.py, without the rows that pad the vocabulary."""
    tables = {"embedding": "model.embedding.weight", "value_embedding": "model.value_embedding.weight",
              "unembedding": "lm_head.weight"}
    found = {}
    for name, tensor in model.state_dict().items():
        rows = tensor[:model.shape.vocab_size] if name in tables else tensor
        found[tables.get(name, f"model.{name}")] = rows.to("cpu", model.dtype, copy=True)
    return found

def fast_tokenizer(tokenizer: Tokenizer, longest: int):
    """The same as transformers' fast tokenizer, with the chat template; longest: tokens of the context."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter
    ranks = {tokenizer.decode_bytes([id]): id for id in range(tokenizer.vocab_size - len(SPECIAL_TOKENS))}
    with patch("tiktoken.load.load_tiktoken_bpe", return_value=ranks):  # whose file would be kept in a cache
        fast = TikTokenConverter("ranks", tokenizer.pattern).converted()
    fast.normalizer = normalizers.Replace(2 * UNTYPABLE, UNTYPABLE)     # what the template has doubled
    fast.add_special_tokens([marker(name) for name in SPECIAL_TOKENS])
    made = PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token=marker("<|bos|>"), eos_token=marker("<|assistant_end|>"),
        pad_token=marker("<|bos|>"), model_max_length=longest, clean_up_tokenization_spaces=False,
        extra_special_tokens={f"{name[2:-2]}_token": marker(name) for name in SPECIAL_TOKENS[1:]})
    made.chat_template = (HERE / "chat_template.jinja").read_text()
    return made

def some_texts() -> list[str]:
    """Texts to compare tokenizers with: code points of all kinds beside letters, digits and spaces, and what
    could be taken for special tokens."""
    points = [point for point in range(0x20000) if not 0xd800 <= point < 0xe000]            # no surrogates
    drawn = random.Random(0).sample(points, 5000)
    mixed = ["".join(f"a{chr(point)}12{chr(point)} {chr(point)}s\n" for point in drawn[start:start + 50])
             for start in range(0, len(drawn), 50)]
    names = [f"{name} {UNTYPABLE}{name}{marker(name)[:-1]}" for name in SPECIAL_TOKENS]
    return ["", "The cat's 12345 lives in the hat:\r\n\t  3.14,  and I'LL pay \n\n more.  ", *names, *mixed]

def some_conversations() -> list[list[dict]]:
    """Messages with and without a system message, with calls of the tool, and such texts in all places."""
    found = []
    for text, other in zip(texts := some_texts(), texts[1:], strict=False):
        kinds = ("text", "text", "python", "python_output", "text")
        said = zip(kinds, (other, "", text, other, text), strict=True)
        reply = [{"type": kind, "text": each} for kind, each in said]
        turns = [("system", text), ("user", other), ("assistant", reply), ("user", text), ("assistant", text)]
        found.append([{"role": role, "content": content} for role, content in turns])
    return found + [messages[1:] for messages in found[:9]]

def write(folder: Path, model: GPT, tokenizer: Tokenizer) -> None:
    """Everything but the model card. The weights have the dtype that the model computes in."""
    about = config(model, tokenizer)
    drawing = {"do_sample": True, "temperature": 0.6, "top_k": 50}      # as chat_cli draws
    for name, content in {"config": about, "generation_config": special_ids(tokenizer) | drawing}.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    save_file(weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    fast_tokenizer(tokenizer, model.shape.sequence_len).save_pretrained(folder)
    shutil.copyfile(HERE / "hf_model.py", folder / "modeling_nanochat.py")

def difference(folder: Path, model: GPT, tokenizer: Tokenizer) -> str:
    """What the folder answers otherwise than the model, as a fresh process finds; empty if nothing."""
    texts, talks = some_texts(), some_conversations()
    longest = min(model.shape.sequence_len - 6, min(model.shape.windows) + 100)             # beyond a window
    asked = [[{"role": "user", "content": text}] for text in ("What is 37 + 85?", "Who are you?")]
    prompts = [render_prompt(tokenizer, {"messages": messages}, longest) for messages in asked]
    prompts.append(random.Random(2).choices(range(tokenizer.vocab_size), k=longest))
    with tempfile.TemporaryDirectory() as name:
        questions = {"texts": texts, "conversations": talks, "prompts": prompts}
        (Path(name) / "questions.json").write_text(json.dumps(questions))
        # Nothing of ours is imported, and code that came with weights is put where it will go again.
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": name}
        command = [sys.executable, "-EP", HERE / "hf_answers.py", folder.absolute(), name]
        run = subprocess.run(command, cwd=name, env=environment, capture_output=True, text=True)
        if run.returncode:
            return (run.stderr.strip() or f"exit code {run.returncode}").splitlines()[-1]
        answers = json.loads((Path(name) / "answers.json").read_text())
        found = load_file(Path(name) / "answers.safetensors")
    rendered = [render_conversation(tokenizer, {"messages": messages}) for messages in talks]
    wanted = {"tokens": list(map(tokenizer.encode, texts)), "texts": texts,
              "prompts": [render_prompt(tokenizer, {"messages": messages[:-1]}) for messages in talks],
              "conversations": [ids for ids, _ in rendered], "masks": [mask for _, mask in rendered]}
    for what, right in wanted.items():
        for question, a, b in zip(texts if what[0] == "t" else talks, answers[what], right, strict=True):
            # the mask goes by places in the text, where half of a doubled character has none
            if a != b and not (what == "masks" and UNTYPABLE in json.dumps(question, ensure_ascii=False)):
                at = len(os.path.commonprefix([a, b]))
                return f"{what} of {question!r}: {a[at:at + 9]!r} from place {at} on, not {b[at:at + 9]!r}"
    return _logits_difference(model, prompts, found)

@torch.no_grad()
def _logits_difference(model: GPT, prompts: list[list[int]], found: dict[str, torch.Tensor]) -> str:
    exact = GPT(model.shape, torch.float32).eval()      # of the very weights that were written
    exact.load_state_dict(model.for_inference().state_dict())
    for number, (prompt, added) in enumerate(zip(prompts, found["float32 generated"].tolist(), strict=True)):
        right = exact(torch.tensor([prompt + added]))[0]
        for what in ("in a batch", "in pieces", "padded"):
            for dtype, measure, bound in (("float32", torch.max, 2e-3), ("bfloat16", torch.mean, 0.5)):
                logits = found[f"{dtype} {number} {what}"]
                gap = measure((logits.float() - right[:len(prompt)]).abs())
                if not gap <= bound:                    # NaN is a difference, too
                    return f"logits of a prompt {what} in {dtype}: {gap:.4g} apart, {bound} may be rounding"
        if (best := right[len(prompt) - 1:-1].argmax(-1).tolist()) != added:
            return f"generate() goes on with {added}, not with {best}"
    return ""
