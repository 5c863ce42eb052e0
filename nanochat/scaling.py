"""The one dial: depth -> Plan. Pure arithmetic, no torch: sizes of the model, its parameters and FLOPs, how
many tokens it should see, in batches of how many, with which learning rates; what is not given is derived.
The numbers were tuned at depth 12 and are carried to other depths by the rules beside them."""
import math
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from nanochat.common import die
from nanochat.schedule import Schedule

REFERENCE_DEPTH = 12            # where the hyperparameters were tuned
REFERENCE_BATCH = 2 ** 19       # tokens per step there
DEFAULT_RATIO = 12.0            # training tokens per scaling parameter
CHARS_PER_TOKEN = 4.8 / 0.96    # climbmix has 4.8 at V = 32,768 (runs/speedrun.sh), packing keeps 96% of them
SHARD_CHARS = 250_000_000       # of a web-scale set
LOSS_CHUNK = 8192               # tokens whose logits are there at once on a GPU: for matmuls of full speed
SAFE = 0.7                      # share of a GPU's memory to plan with, as the estimate is one
VOCAB_MULTIPLE = 64             # rows of tables are padded to it, to divide over ranks and tensor cores

@dataclass(frozen=True)
class LearningRates:
    """Base rates at the reference depth and batch. `matrix` is Muon's, all others are Adam's."""
    unembedding: float = 0.008
    embedding: float = 0.3
    value_embedding: float = 0.15
    matrix: float = 0.02
    residual: float = 0.005     # rho, the weight of the residual stream into a layer
    input: float = 0.5          # mu, the weight of the first embedding into a layer
    smear: float = 0.2          # smear gate, smear weight and backout weight; not scaled by the batch

@dataclass(frozen=True)
class Shape:
    """Architecture. Everything that the weights' shapes and the forward pass depend on."""
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    sequence_len: int
    vocab_size: int
    window_pattern: str = "SSSL"
    key_offset: bool = False    # half of every key is the previous token's

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def padded_vocab(self) -> int:
        return math.ceil(self.vocab_size / VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def windows(self) -> tuple[int, ...]:
        """How many previous tokens each layer sees: the pattern, tiled over the layers; the last sees all."""
        size = {"L": self.sequence_len, "S": min(self.sequence_len, math.ceil(self.sequence_len / 512) * 128)}
        tiled = [size[letter] for letter in islice(cycle(self.window_pattern), self.n_layer - 1)]
        return (*tiled, self.sequence_len)

    @property
    def value_layers(self) -> tuple[int, ...]:
        """Layers with value embeddings: every second one, counted so that the last layer has them."""
        return tuple(i for i in range(self.n_layer) if i % 2 == (self.n_layer - 1) % 2)

    @property
    def gate_channels(self) -> int:
        return min(12, self.n_embd)

    @property
    def smear_channels(self) -> int:
        return min(24, self.n_embd)

    def params(self) -> dict[str, int]:
        """Parameter counts by role."""
        kv = self.n_kv_head * self.head_dim
        table = self.padded_vocab * self.n_embd
        return {"matrices": self.n_layer * (10 * self.n_embd * self.n_embd + 2 * self.n_embd * kv),
                "gates": len(self.value_layers) * self.n_kv_head * self.gate_channels,
                "value_embedding": len(self.value_layers) * self.padded_vocab * kv,
                "embedding": table, "unembedding": table,
                "scalars": 2 * self.n_layer + 2 + self.smear_channels}

    def scaling_params(self) -> int:
        """Block matrices and head: what the number of training tokens is proportional to."""
        params = self.params()
        return params["matrices"] + params["unembedding"]

    def flops_per_token(self) -> int:
        """Forward and backward, of one token: 6 per linear weight, 12 * width per key that attention sees."""
        linear = self.scaling_params() + self.params()["gates"] + self.smear_channels
        return 6 * linear + 12 * self.n_embd * sum(self.windows)

    def memory(self, ranks: int = 1, width: int = 2) -> dict[str, int]:
        """Estimated bytes on one of `ranks` GPUs: weights, gradients, its share of the optimizer's state, the
        loss, and what a row keeps for its backward pass. `width`: of a number in the compute dtype."""
        params, C, kv = self.params(), self.n_embd, self.n_kv_head * self.head_dim
        tables, head = params["embedding"] + params["value_embedding"], params["unembedding"]
        weights = width * tables + 4 * (sum(params.values()) - tables)
        # of a token in a layer: the stream twice and normalised twice, queries, keys and values before and
        # after what is done to them, what attention gives, and the 4 C numbers within the MLP
        kept = self.n_layer * (11 * C + 4 * kv) + len(self.value_layers) * kv + 6 * C
        return {"weights": weights, "gradients": weights,
                "optimizer": (8 * (tables + head) + 4 * params["matrices"]) // ranks,   # Adam: m, v; Muon: m
                "loss": 4 * head + 12 * LOSS_CHUNK * self.padded_vocab,
                "row": width * self.sequence_len * kept}

    def rows_that_fit(self, memory: float, most: int, ranks: int = 1, width: int = 2) -> int:
        """Rows of a micro-batch, a power of two times smaller than `most`, for a GPU of so many bytes."""
        *fixed, row = self.memory(ranks, width).values()
        while most > 1 and sum(fixed) + most * row > SAFE * memory:
            most //= 2
        return most

@dataclass(frozen=True)
class Plan:
    """All the numbers of a pretraining run. Tokens and batches are counted over all ranks."""
    shape: Shape
    batch_tokens: int
    num_iterations: int
    rates: LearningRates        # peak learning rates of this run, all scaling applied
    weight_decay: float         # Muon's, at the start
    schedule: Schedule = field(repr=False)

    @property
    def total_tokens(self) -> int:
        return self.num_iterations * self.batch_tokens

    @property
    def num_shards(self) -> int:
        """Of a web-scale set: so many that no text is read twice."""
        return math.ceil(self.total_tokens * CHARS_PER_TOKEN / SHARD_CHARS)

    def phases(self) -> dict[str, tuple[float, float]]:
        """Parts of a step -> (FLOPs, bytes that one GPU moves at least): what is kept of a token twice and
        its gradient once, a logit five times, states twice. Newton-Schulz: 5 (4 m^2 n + 2 m^3), m <= n."""
        shape, tokens, memory = self.shape, self.batch_tokens, self.shape.memory()
        head, kept = 6 * shape.params()["unembedding"], memory["row"] // shape.sequence_len
        trunk = (shape.flops_per_token() - head) * tokens / 3
        return {"forward": (trunk, kept * tokens),
                "loss": (head * tokens, 10 * shape.padded_vocab * tokens),
                "backward": (2 * trunk, 2 * kept * tokens),
                "optimizer": (300 * shape.n_layer * shape.n_embd ** 3,
                              memory["gradients"] + 2 * memory["weights"] + 2 * memory["optimizer"])}

    def summary(self) -> dict:
        """Everything a person wants to see before it starts, flat, for the terminal and the log."""
        shape, params = self.shape, self.shape.params()
        return {
            "depth": shape.n_layer, **asdict(shape),
            "head_dim": shape.head_dim, "windows": list(shape.windows),
            **{f"params_{role}": count for role, count in params.items()},
            "params_total": sum(params.values()), "scaling_params": shape.scaling_params(),
            "flops_per_token": shape.flops_per_token(), "batch_tokens": self.batch_tokens,
            "num_iterations": self.num_iterations, "total_tokens": self.total_tokens,
            "total_flops": self.total_tokens * shape.flops_per_token(), "num_shards": self.num_shards,
            "tokens_per_scaling_param": self.total_tokens / shape.scaling_params(),
            **{f"lr_{role}": rate for role, rate in asdict(self.rates).items()},
            "weight_decay": self.weight_decay}

def make_shape(depth: int, vocab_size: int, *, aspect_ratio: int = 64, head_dim: int = 128,
               sequence_len: int = 2048, window_pattern: str = "SSSL", n_kv_head: int | None = None,
               key_offset: bool = False) -> Shape:
    """`aspect_ratio` channels per layer, rounded up to whole heads. Dies on numbers that make no model."""
    limits = (("--depth", depth, 1), ("--aspect-ratio", aspect_ratio, 1), ("--head-dim", head_dim, 2),
              ("--max-seq-len", sequence_len, 2), ("vocabulary", vocab_size, 2))
    for name, value, least in limits:
        if value < least:
            die(f"{name} is {value}, must be at least {least}")
    if head_dim % 4:                                    # rotary embeddings turn pairs; key_offset splits them
        die(f"--head-dim is {head_dim}, must be a multiple of 4", f"--head-dim={4 * math.ceil(head_dim / 4)}")
    if not window_pattern or set(window_pattern) - set("SL"):
        die(f"--window-pattern is {window_pattern!r}, may only hold S (quarter context) and L (all)",
            hint="--window-pattern=SSSL")
    n_head = max(1, math.ceil(depth * aspect_ratio / head_dim))
    n_kv_head = n_kv_head or n_head
    if n_head % n_kv_head:
        die(f"{n_head} query heads cannot share {n_kv_head} key heads evenly", f"use --n-kv-head={n_head}")
    return Shape(depth, n_head, n_kv_head, n_head * head_dim, sequence_len, vocab_size, window_pattern,
                 key_offset)

def derive(depth: int, vocab_size: int = 32768, *, ratio: float | None = None,
           num_iterations: int | None = None, target_flops: float | None = None,
           batch_tokens: int | None = None, rates: LearningRates = LearningRates(), lr_scale: float = 1.0,
           weight_decay: float = 0.28, warmup: int = 40, warmdown: float = 0.65, final_lr: float = 0.05,
           **shape_options) -> Plan:
    """How long to train: `num_iterations` (optimizer steps), else `target_flops`, else `ratio` tokens per
    scaling parameter. `lr_scale` multiplies the rates of matrices and tables. Other options: make_shape's.

    Batch ~ tokens^0.383 (arXiv 2505.13738), to the nearest power of two. Rates ~ sqrt(batch); those of the
    embedding tables and the head also ~ width^-0.5. Decay ~ sqrt(batch) / tokens: equal e-foldings a run."""
    shape = make_shape(depth, vocab_size, **shape_options)
    reference = make_shape(REFERENCE_DEPTH, vocab_size)
    relative = shape.scaling_params() / reference.scaling_params()
    if not batch_tokens:
        batch_tokens = 2 ** round(math.log2(REFERENCE_BATCH * relative ** 0.383))
    if not num_iterations and target_flops:
        num_iterations = max(1, round(target_flops / shape.flops_per_token() / batch_tokens))
    elif not num_iterations:
        num_iterations = max(1, int((ratio or DEFAULT_RATIO) * shape.scaling_params() // batch_tokens))
    batch_scale = math.sqrt(batch_tokens / REFERENCE_BATCH)
    width_scale = (shape.n_embd / reference.n_embd) ** -0.5
    tables = {role: getattr(rates, role) * lr_scale * batch_scale * width_scale
              for role in ("unembedding", "embedding", "value_embedding")}
    scaled = LearningRates(**tables, matrix=rates.matrix * lr_scale * batch_scale,
                           residual=rates.residual * batch_scale, input=rates.input * batch_scale,
                           smear=rates.smear)
    return Plan(shape, batch_tokens, num_iterations, scaled, weight_decay * batch_scale / relative,
                Schedule(num_iterations, warmup, warmdown, final_lr))
