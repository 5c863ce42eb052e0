"""A causal language model in the format of Hugging Face's transformers, with what evaluations ask of one of
ours: bits per byte and CORE. By the name of its repository on the hub, or a local folder."""
from collections.abc import Sequence
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from nanochat.common import die
from nanochat.core_eval import TOKENS, TOKENS_CPU, Example, Verdict, judge_tokens, verdict

# B rows, T tokens, V vocabulary

LONGEST = 2048                      # tokens of a row of text, where the model could take more

class Foreign:
    """Tokenizer, model and reader in one. `limit`: tokens that it can take at most, where its positions are a
    table; rotary ones go on, as ours do. `context`: tokens that it was made for, at most 2,048."""
    def __init__(self, name: str, device: torch.device, dtype: torch.dtype, trust_remote_code: bool = False):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        trust = {"trust_remote_code": trust_remote_code}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name, **trust)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **trust)
        except (OSError, ValueError, ImportError) as error:
            die(f"--hf {name} cannot be loaded: {str(error).strip().splitlines()[0]}",
                hint="a repository of the hub, or a folder with config.json and weights")
        self._model, self.device = model.to(device).eval().requires_grad_(False), device
        config = model.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None)
        rotary = any("rope" in key or "rotary" in key for key in config.to_dict())
        self.limit, self.context = None if rotary else longest, min(longest or LONGEST, LONGEST)
        first, last = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        self.bos = last if first is None else first
        self.tokens = (TOKENS_CPU if device.type == "cpu" else TOKENS) // 4     # all logits are made

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]

    def __call__(self, inputs: Tensor, targets: Tensor, reduction: str = "none") -> Tensor:
        """Nats of the targets (B, T), 0 where they are -1."""
        logits = self._logits(inputs.long())                                                # (B, T, V)
        return F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-1, reduction=reduction)

    def verdicts(self, examples: Sequence[Example]) -> list[list[Verdict]]:
        """One of each option of each example: all rows in one forward pass, padded."""
        rows = [(row, start) for each in examples for row, start in zip(each.rows, each.starts, strict=True)]
        idx = pad_sequence([torch.tensor(row) for row, _ in rows], batch_first=True).to(self.device)  # (B, T)
        logits = self._logits(idx)                                                          # (B, T, V)
        told = (judge_tokens(lambda x: x, logits[b, start - 1:len(row) - 1], idx[b, start:len(row)])
                for b, (row, start) in enumerate(rows))
        return [[verdict(list(next(told))) for _ in each.rows] for each in examples]

    @torch.no_grad()
    def _logits(self, idx: Tensor) -> Tensor:
        return self._model(idx, use_cache=False).logits.float()
