"""Random-weight llama models written by code, so that the suite runs a real engine without downloading one.

Law: whatever the sampler's settings, the model says only whole English words, one a token, and never ends by itself.
So a stream runs to its `max_tokens`, and its content events are its tokens.

How: coordinate 0 of the residual stream is the same positive number in every embedding, and no layer writes to it (row
0 of each `attn_output` and `ffn_down` is zero), so it is positive when the output matrix reads it. Each row of that
matrix that belongs to a control token, a lone byte or a part of a word holds -1000 there: its logit is hundreds below
any word's. A grammar (JSON mode, forced tools) bans the words in its turn, and then bytes and the end of text come out.
"""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

# Every one is sayable as one token with its leading space, and a prompt made of them has one token a word.
WORDS = (
    "river", "water", "stone", "light", "cloud", "field", "grass", "bridge", "silver", "morning", "winter", "summer",
    "harbor", "garden", "window", "letter", "market", "valley", "island", "forest", "candle", "copper", "wagon",
    "meadow", "quiet", "gentle", "narrow", "bright", "golden", "hollow", "slowly", "under", "over", "between", "before",
    "after", "carries", "follows", "gathers", "opens", "turns", "holds", "keeps", "and", "the", "of", "with", "near",
)  # fmt: skip

_UNKNOWN, _BEGIN, _END = 0, 1, 2
_BANNED = -1000.0

_TEMPLATE = """\
{%- if tools %}[tools] {{ tools | tojson }}
{% endif %}
{%- for message in messages %}[{{ message['role'] }}]
{%- if message['content'] %} {{ message['content'] }}{% endif %}
{%- if message['tool_calls'] %} {{ message['tool_calls'] | tojson }}{% endif %}
{% endfor %}
{%- if add_generation_prompt %}[assistant]{% endif %}"""


@dataclass(frozen=True)
class Shape:
    """The sizes of a llama model."""

    name: str
    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    context: int


TINY = Shape("tiny", width=64, layers=2, heads=4, key_value_heads=2, feed_forward=128, context=16_384)
# Every token reads all the weights once: a quarter of a GiB makes about 100 tokens a second on one thread. Few layers
# of little width keep attention cheap, so that the pace holds as a stream grows.
SLOW = Shape("slow", width=512, layers=5, heads=8, key_value_heads=1, feed_forward=8192, context=32_768)


def write_model(folder: Path, shape: Shape = TINY) -> Path:
    """Write `shape` as a GGUF file into `folder` (once: a file that is there is taken) and return its path."""
    path = folder / f"{shape.name}.gguf"
    if path.exists():
        return path
    unfinished = path.with_suffix(".part")
    writer = gguf.GGUFWriter(unfinished, "llama")
    tokens = _vocabulary(writer)
    _describe(writer, shape, len(tokens))
    _weights(writer, shape, tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unfinished.rename(path)


def _byte_names() -> list[str]:
    """Name each of the 256 bytes by one printable character, as byte-level BPE does."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _vocabulary(writer: gguf.GGUFWriter) -> list[str]:
    """Write the tokenizer: three specials, 256 bytes, then each word grown letter by letter."""
    names = _byte_names()
    tokens = ["<unk>", "<s>", "</s>", *names]
    merges: list[str] = []
    for word in WORDS:
        letters = [names[byte] for byte in f" {word}".encode()]
        grown = letters[0]
        for letter in letters[1:]:
            if grown + letter not in tokens:
                merges.append(f"{grown} {letter}")
                tokens.append(grown + letter)
            grown += letter
    kind = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_unk_token_id(_UNKNOWN)
    writer.add_bos_token_id(_BEGIN)
    writer.add_eos_token_id(_END)
    writer.add_add_bos_token(True)
    writer.add_chat_template(_TEMPLATE)
    return tokens


def _describe(writer: gguf.GGUFWriter, shape: Shape, vocabulary: int) -> None:
    """Write the model's hyperparameters."""
    writer.add_name(f"{shape.name}-random")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_value_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _weights(writer: gguf.GGUFWriter, shape: Shape, tokens: list[str]) -> None:
    """Write every tensor; see the head of this module for the two that matter."""
    dice = np.random.default_rng(0)
    width, hidden = shape.width, shape.feed_forward
    shared = width // shape.heads * shape.key_value_heads
    embedding = dice.standard_normal((len(tokens), width), np.float32)
    embedding[:, 0] = 4.0
    head = dice.standard_normal((len(tokens), width), np.float32) / np.float32(np.sqrt(width))
    sayable = {_byte_names()[ord(" ")] + word for word in WORDS}
    head[:, 0] = [0.0 if token in sayable else _BANNED for token in tokens]
    flat = np.ones(width, np.float32)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", flat)
    writer.add_tensor("output.weight", head)
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", flat)
        writer.add_tensor(f"{block}.ffn_norm.weight", flat)
        for part, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", shared, width),
            ("attn_v", shared, width),
            ("attn_output", width, width),
            ("ffn_gate", hidden, width),
            ("ffn_up", hidden, width),
            ("ffn_down", width, hidden),
        ):
            matrix = _random(dice, rows, columns)
            if part in {"attn_output", "ffn_down"}:
                matrix[0] = 0.0
            writer.add_tensor(f"{block}.{part}.weight", matrix)


def _random(dice: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Make a random matrix that keeps a vector's length. Full floats: slow is to mean memory read, not arithmetic."""
    return (dice.random((rows, columns), np.float32) - np.float32(0.5)) * np.float32(np.sqrt(12 / columns))
