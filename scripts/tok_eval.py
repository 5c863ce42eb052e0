"""How well the tokenizer compresses: bytes per token on samples of several kinds, beside GPT-2 and GPT-4.

    python -m scripts.tok_eval
More bytes per token is better: less to compute for the same text, and more text in a context."""
import argparse
from nanochat.common import RunLog, base_dir, new_parser
from nanochat.report import tokenizer_table
from nanochat.tokenizer import Tokenizer

SAMPLES = {
    "prose": """\
The old lighthouse keeper climbed the narrow stairs every evening, just before the sun went down. He didn't
mind the wind, nor the hundred and twelve steps; what he minded was the silence that had settled over the
harbour since the last of the fishing boats had been sold. "Someone has to keep it lit," he'd say.""",
    "code": """\
    while queue:
        distance, node = heapq.heappop(queue)
        if node not in seen:
            seen.add(node)
            for neighbour, weight in graph[node]:
                heapq.heappush(queue, (distance + weight, neighbour))
    raise ValueError(f"no path from {start!r} to {goal!r}")""",
    "maths": r"""\
\begin{equation} \int_0^1 \frac{\ln(1+x)}{1+x^2}\,dx = \frac{\pi}{8}\ln 2 \approx 0.27219826 \end{equation}
12 * 34 = 408; 408 / 16 = 25.5; 1,000,000 - 999,983 = 17; sqrt(2) = 1.41421356.""",
    "russian": """\
Рано утром мы вышли из дома и пошли к реке. Над водой ещё стоял туман, и было так тихо, что слышно было, как
рыба плещется у берега. Никто не говорил ни слова.""",
    "chinese": "清晨的市场里已经有很多人。卖菜的老人把新鲜的蔬菜摆得整整齐齐,"
               "孩子们在旁边追逐玩耍,空气里飘着豆浆的香味。",
    "emoji": "Happy birthday!! 🎉🎂🥳 See you at 8 👋🏽 — don't be late 😅 👨‍👩‍👧‍👦 🇫🇷🇯🇵 ❤️‍🔥 ¯\\_(ツ)_/¯",
}
# Vocabulary, and tokens of each sample, in their order; counted once with tiktoken's gpt2 and cl100k_base.
OTHERS = {"gpt2": (50257, (70, 137, 97, 171, 112, 70)), "gpt4": (100277, (71, 69, 100, 83, 82, 74))}

def parser() -> argparse.ArgumentParser:
    return new_parser(__doc__)

def main(args: argparse.Namespace) -> None:
    tokenizer, log = Tokenizer.load(), RunLog(base_dir() / "tokenizer" / "tok_eval.jsonl")
    ours = tokenizer.vocab_size, [len(tokenizer.encode(text)) for text in SAMPLES.values()]
    for label, (vocab_size, tokens) in {"ours": ours, **OTHERS}.items():
        sizes = {kind: round(len(text.encode()) / count, 3)
                 for (kind, text), count in zip(SAMPLES.items(), tokens, strict=True)}
        log.write(stage="tok_eval", tokenizer=label, vocab_size=vocab_size, bytes_per_token=sizes)
    print(tokenizer_table())

if __name__ == "__main__":
    main(parser().parse_args())
