"""The tiny model, made brief: it says one word and ends, as an agent needs that asks again what was cut off.

Law: the file is tiny_model's; only weights are changed, in place. Coordinate 1 of the residual stream says whether a
token is a word, no layer writes to it, and the end of text alone reads it: after a word it wins, else it never does.
"""

from pathlib import Path

import gguf
import numpy as np

from tests.parts.tiny_model import Shape, write_model

CONTEXT = 40_960
"""Room for the tools of an agent, at a token a byte."""
BRIEF = Shape(
    "brief", width=16, layers=1, heads=1, key_value_heads=1, feed_forward=16, context=CONTEXT
)  # as small as can be: 30,000 tokens are to be read in seconds

_END = 2
_SURE = 10.0


def write_brief_model(folder: Path) -> Path:
    """Write the brief model as a GGUF file into `folder` and return its path."""
    path = write_model(folder, BRIEF)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path, "r+").tensors}
    head = tensors["output.weight"]
    words = head[:, 0] == 0.0
    head[:, 1] = 0.0
    head[_END, :2] = 0.0, _SURE
    tensors["token_embd.weight"][:, 1] = np.where(words, 4.0, -4.0)
    for name, matrix in tensors.items():
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            matrix[1] = 0.0
        matrix.flush()
    return path
