"""The model for Hugging Face's transformers: the one file of code that goes with exported weights, and needs
nothing else of this repository. The arithmetic is that of gpt.py, which explains the pieces.

One thing is done otherwise: what a token takes from the token before it (smear, key offset) comes through
attention, see Previous. Whatever others do with caches, padding on any side, beams, pages, reuse, then holds
for it as well, and nothing but keys and values has to be kept."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple

# B rows, T tokens, C width, H query heads, K kv heads, D head dim, S keys seen, V vocabulary

SDPA = ALL_ATTENTION_FUNCTIONS["sdpa"]      # also of "eager", which transformers leaves to each model
SURE = 32.0                         # half the nats by which Previous prefers its token: e^-64 is nothing

def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))

def rotary_tables(positions: Tensor, config: PreTrainedConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos, and sin, negative in the second half, of positions (B, T): (B, 1, T, D) each."""
    exact = torch.float32 if positions.device.type == "mps" else torch.float64
    halves = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=exact) / config.head_dim
    angles = positions[:, None, :, None] * config.rope_parameters["rope_theta"] ** -halves
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((sin, -sin), dim=-1)

def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (j, j + D/2) of x (B, H, T, D)."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin)

def offset_keys(k: Tensor, before: Tensor) -> Tensor:
    """The slowly turning half of every key (B, K, T, D) is that of the token before."""
    fast, _, fast_pair, _ = k.chunk(4, dim=-1)
    _, slow, _, slow_pair = before.chunk(4, dim=-1)
    return torch.cat((fast, slow, fast_pair, slow_pair), dim=-1)

def to_bits(numbers: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Numbers (B, T) in binary, lowest bit first, 1 for a one and -1 for a zero: (B, 1, T, width)."""
    places = torch.arange(width, device=numbers.device).clamp(max=62)
    return ((numbers[:, None, :, None] >> places & 1) * 2 - 1).to(dtype)

class NanochatConfig(PreTrainedConfig):
    """num_hidden_layers counts what keeps keys and values: num_blocks blocks, then a Previous for the smear
    and, with key_offset, one for each block. All fields are in config.json."""
    model_type = "nanochat_gpt"

class Attend(nn.Module):
    """Causal attention over what the cache keeps as layer `layer_idx`, in the implementation that the model
    was loaded with. No weights."""
    is_causal = True

    def __init__(self, config: NanochatConfig, layer_idx: int, scaling: float):
        super().__init__()
        self.config, self.layer_idx, self.scaling = config, layer_idx, scaling
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.layer_type = config.layer_types[layer_idx]
        self.sliding_window = config.sliding_window if self.layer_type == "sliding_attention" else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, masks: dict, past_key_values: DynamicCache | None,
                **kwargs) -> Tensor:
        """q (B, H, T, D), k and v (B, K, T, D) -> (B, T, H, D)."""
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, SDPA)
        y, _ = attention(self, q, k, v, masks[self.layer_type], scaling=self.scaling, dropout=0.0,
                         sliding_window=self.sliding_window, **kwargs)
        return y.reshape(q.transpose(1, 2).shape)

class Previous(nn.Module):
    """What the token before each had. A key is its token's position in binary, a query the position before:
    that one key scores higher than all others by so much that the softmax is 1 there, to the last bit."""
    def __init__(self, config: NanochatConfig, layer_idx: int):
        super().__init__()
        self.attend = Attend(config, layer_idx, 1.0)    # a part: vLLM reads the code of each such class

    def forward(self, v: Tensor, *, positions: Tensor, **past) -> Tensor:
        """v (B, K, T, D), positions (B, T) -> as v; 0 where there is no token before."""
        (B, K, _, D), groups = v.shape, self.attend.num_key_value_groups
        k = to_bits(positions, D, v.dtype).expand_as(v)
        q = to_bits(positions - 1, D, v.dtype).expand(B, K * groups, -1, -1) * SURE
        y = self.attend(q, k, v, **past)[:, :, ::groups].transpose(1, 2)
        return y * (positions > 0)[:, None, :, None]

class Attention(nn.Module):
    def __init__(self, config: NanochatConfig, layer: int):
        super().__init__()
        self.config, C, kv = config, config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q, self.k = nn.Linear(C, C, bias=False), nn.Linear(C, kv, bias=False)
        self.v, self.o = nn.Linear(C, kv, bias=False), nn.Linear(C, C, bias=False)
        gated = layer in config.value_layers
        self.gate = nn.Linear(config.gate_channels, config.num_key_value_heads, bias=False) if gated else None
        self.attend = Attend(config, layer, config.head_dim ** -0.5)
        self.previous = Previous(config, config.num_blocks + 1 + layer) if config.key_offset else None

    def forward(self, x: Tensor, value: Tensor | None, rotary: tuple[Tensor, Tensor], positions: Tensor,
                **past) -> Tensor:
        """x (B, T, C), value embeddings (B, T, K * D) or None -> (B, T, C)."""
        (B, T, C), D = x.shape, self.config.head_dim
        q, k, v = (f(x).view(B, T, -1, D).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = (norm(rotate(heads, *rotary)) * self.config.qk_scale for heads in (q, k))
        if self.previous is not None:
            k = offset_keys(k, self.previous(k, positions=positions, **past))
        if self.gate is not None:
            gate = 3 * torch.sigmoid(self.gate(x[..., :self.config.gate_channels]))        # (B, T, K)
            value = value.view(B, T, -1, D).transpose(1, 2)
            v = torch.addcmul(v, gate.transpose(1, 2).unsqueeze(-1), value)
        return self.o(self.attend(q, k, v, **past).reshape(B, T, C))

class MLP(nn.Module):
    def __init__(self, config: NanochatConfig):
        super().__init__()
        C, hidden = config.hidden_size, config.intermediate_size
        self.up, self.down = nn.Linear(C, hidden, bias=False), nn.Linear(hidden, C, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())

class Block(nn.Module):
    def __init__(self, config: NanochatConfig, layer: int):
        super().__init__()
        self.attention, self.mlp = Attention(config, layer), MLP(config)

    def forward(self, x: Tensor, value: Tensor | None, **past) -> Tensor:
        x = x + self.attention(norm(x), value, **past)
        return x + self.mlp(norm(x))

class NanochatPreTrainedModel(PreTrainedModel):
    config_class = NanochatConfig
    base_model_prefix, _input_embed_layer = "model", "embedding"
    _no_split_modules = ["NanochatModel"]
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

class NanochatModel(NanochatPreTrainedModel):
    """Tokens -> normalised final states."""
    def __init__(self, config: NanochatConfig):
        super().__init__(config)
        V, C, L = config.vocab_size, config.hidden_size, config.num_blocks
        kv = config.num_key_value_heads * config.head_dim
        self.embedding = nn.Embedding(V, C)
        self.value_embedding = nn.Embedding(V, len(config.value_layers) * kv)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(L))
        self.residual, self.input = nn.Parameter(torch.ones(L)), nn.Parameter(torch.zeros(L))
        self.smear_gate = nn.Parameter(torch.zeros(config.smear_channels))
        self.smear, self.backout = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.previous = nn.ModuleList([Previous(config, L)])    # vLLM wants a number in the path of each
        self.post_init()

    @can_return_tuple
    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                position_ids: Tensor | None = None, past_key_values: DynamicCache | None = None,
                inputs_embeds: Tensor | None = None, use_cache: bool | None = None,
                **kwargs) -> BaseModelOutputWithPast:
        """input_ids (B, T), attention_mask (B, tokens before and T) with 0 for padding on either side."""
        if input_ids is None:
            raise ValueError("this model needs input_ids: its value embeddings are looked up by token")
        config, T = self.config, input_ids.size(1)
        if past_key_values is None and (not self.training if use_cache is None else use_cache):
            past_key_values = DynamicCache(config=config)
        if position_ids is None:
            before = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(before, before + T, device=input_ids.device)[None]
            if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2:
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -T:]
        x = norm(self.embedding(input_ids))                                                     # (B, T, C)
        rotary = rotary_tables(position_ids, config, x.dtype)
        masks = attention_mask if isinstance(attention_mask, dict) else create_masks_for_generate(
            config=config, inputs_embeds=x, attention_mask=attention_mask, past_key_values=past_key_values,
            position_ids=position_ids)
        past = {"positions": position_ids, "masks": masks, "past_key_values": past_key_values, **kwargs}
        x = self.smeared(x, input_ids, past)
        values = self.value_embedding(input_ids).chunk(len(config.value_layers), dim=-1)
        values = dict(zip(config.value_layers, values, strict=True))
        first = x
        for layer, block in enumerate(self.blocks):
            mixed = self.residual[layer] * x + self.input[layer] * first
            x = block(mixed, values.get(layer), rotary=rotary, **past)
            if layer == config.num_blocks // 2:
                middle = x
        return BaseModelOutputWithPast(norm(x - self.backout * middle), past_key_values)

    def smeared(self, x: Tensor, input_ids: Tensor, past: dict) -> Tensor:
        """A gated share of the embedding before, whose token's number comes through the cache."""
        config, positions = self.config, past["positions"]
        bits = to_bits(input_ids, config.head_dim, x.dtype).repeat(1, config.num_key_value_heads, 1, 1)
        ones = self.previous[0](bits, **past)[:, 0, :, :32] > 0                                 # (B, T, 32)
        numbers = (ones.long() << torch.arange(ones.size(-1), device=x.device)).sum(-1)
        before = norm(self.embedding(numbers.clamp(max=config.vocab_size - 1))) * (positions > 0)[..., None]
        gate = torch.sigmoid(x[..., :config.smear_channels] @ self.smear_gate)                   # (B, T)
        return torch.addcmul(x, (self.smear * gate).unsqueeze(-1), before)

class NanochatForCausalLM(NanochatPreTrainedModel, GenerationMixin):
    def __init__(self, config: NanochatConfig):
        super().__init__(config)
        self.model = NanochatModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
                position_ids: Tensor | None = None, labels: Tensor | None = None,
                logits_to_keep: int | Tensor = 0, **kwargs) -> CausalLMOutputWithPast:
        """Logits (B, the last logits_to_keep of T or all, V) in fp32, and the loss where labels are given."""
        output = self.model(input_ids, attention_mask, position_ids, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        cap = self.config.final_logit_softcapping
        logits = cap * torch.tanh(self.lm_head(output.last_hidden_state[:, kept]).float() / cap)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size)
        return CausalLMOutputWithPast(loss, logits, output.past_key_values)
