"""A random-weight Mistral and its tokenizer in the Hugging Face layout, for the engines that read no GGUF.

Law: as in `tests.parts.tiny_model`, whose words and whose way of choosing what is said these are; the brief one, as in
`tests.parts.clients_model`. Numbers and JSON are all it takes to write: neither torch nor transformers is needed here,
only by the engine that serves the folder.
"""

import json
from pathlib import Path

import numpy as np

from tests.parts.tiny_model import WORDS, Shape, _byte_names

TINY = Shape("tiny", width=128, layers=2, heads=4, key_value_heads=2, feed_forward=256, context=8192)
BRIEF = Shape("brief", width=32, layers=1, heads=1, key_value_heads=1, feed_forward=32, context=65_536)
"""It says one word and ends. As small as vLLM takes a head: 30,000 tokens of an agent's are to be read in seconds."""

_SPECIALS = ("<unk>", "<s>", "</s>")
_END = 2
_BANNED = -1000.0
_SURE = 10.0

_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}[tools] {{ tools | tojson }}{% endif %}
{%- for message in messages %}[{{ message['role'] }}]
{%- if message['content'] %} {{ message['content'] }}{% endif %}
{%- if message['tool_calls'] %} {{ message['tool_calls'] | tojson }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}[assistant]{% endif %}"""


def write_mistral(folder: Path, shape: Shape = TINY) -> Path:
    """Write the model of that shape into `folder` (once: one that is there is taken) and return it."""
    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges = _vocabulary()
    for name, content in {
        "config.json": _config(shape, len(tokens)),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "do_sample": True},
        "tokenizer.json": _tokenizer(tokens, merges),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "</s>",
            "model_max_length": shape.context,
            "chat_template": _TEMPLATE,
        },
    }.items():
        (folder / name).write_text(json.dumps(content))
    weights = _weights(shape, tokens)
    if shape is BRIEF:
        _end_after_a_word(weights)
    unfinished = folder / "model.part"
    unfinished.write_bytes(_safetensors(weights))
    unfinished.rename(folder / "model.safetensors")
    return folder


def _vocabulary() -> tuple[list[str], list[list[str]]]:
    """Make the tokens (specials, bytes, words grown letter by letter) and the merges that grow them."""
    names = _byte_names()
    tokens = [*_SPECIALS, *names]
    merges: list[list[str]] = []
    for word in WORDS:
        grown, *letters = (names[byte] for byte in f" {word}".encode())
        for letter in letters:
            if grown + letter not in tokens:
                merges.append([grown, letter])
                tokens.append(grown + letter)
            grown += letter
    return tokens, merges


def _config(shape: Shape, vocabulary: int) -> dict[str, object]:
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "vocab_size": vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.width // shape.heads,
        "max_position_embeddings": shape.context,
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    }


def _tokenizer(tokens: list[str], merges: list[list[str]]) -> dict[str, object]:
    """Describe a byte-level BPE in the tokenizers library's file format."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": place, "content": name} | special for place, name in enumerate(_SPECIALS)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: place for place, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def _weights(shape: Shape, tokens: list[str]) -> dict[str, np.ndarray]:
    """Make every tensor; the head of `tests.parts.tiny_model` says what coordinate 0 is for."""
    dice = np.random.default_rng(0)
    width, hidden = shape.width, shape.feed_forward
    shared = width // shape.heads * shape.key_value_heads
    space = _byte_names()[ord(" ")]
    sayable = {space + word for word in WORDS}
    embedding = dice.standard_normal((len(tokens), width), np.float32)
    embedding[:, 0] = 4.0
    head = dice.standard_normal((len(tokens), width), np.float32) / np.float32(np.sqrt(width))
    head[:, 0] = [0.0 if token in sayable else _BANNED for token in tokens]
    flat = np.ones(width, np.float32)
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": flat, "lm_head.weight": head}
    for layer in range(shape.layers):
        block = f"model.layers.{layer}"
        tensors[f"{block}.input_layernorm.weight"] = flat
        tensors[f"{block}.post_attention_layernorm.weight"] = flat
        for part, rows, columns in (
            ("self_attn.q_proj", width, width),
            ("self_attn.k_proj", shared, width),
            ("self_attn.v_proj", shared, width),
            ("self_attn.o_proj", width, width),
            ("mlp.gate_proj", hidden, width),
            ("mlp.up_proj", hidden, width),
            ("mlp.down_proj", width, hidden),
        ):
            matrix = dice.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(columns))
            if part in {"self_attn.o_proj", "mlp.down_proj"}:
                matrix[0] = 0.0
            tensors[f"{block}.{part}.weight"] = matrix
    return tensors


def _end_after_a_word(weights: dict[str, np.ndarray]) -> None:
    """Let coordinate 1 say whether a token is a word, and the end of text alone read it."""
    head = weights["lm_head.weight"]
    words = head[:, 0] == 0.0
    head[:, 1] = 0.0
    head[_END, :2] = 0.0, _SURE
    weights["model.embed_tokens.weight"][:, 1] = np.where(words, 4.0, -4.0)
    for name, matrix in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            matrix[1] = 0.0


def _safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """Lay tensors out as safetensors does: the header's length, a JSON header padded to 8 bytes, then the numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [place, place + tensor.nbytes]}
        place += tensor.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + b"".join(tensor.tobytes() for tensor in tensors.values())
