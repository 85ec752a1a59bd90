"""What a simulated backend says: readable text, cut into pieces that stand for tokens.

Law: every answer begins by saying that it is simulated, and the same prompt to the same backend always gets the same
answer. The pieces joined are the text; each piece counts as one token.
"""

import re
from collections.abc import Iterator
from zlib import crc32

PIECE = re.compile(r" ?[A-Za-z'-]{1,9}| ?\d{1,3}|[^\w\s]")

SENTENCES = (
    "A sluice is a gate in a channel, and a sluiceway is the channel that the gate commands.",
    "Millers used one to decide how much of a river should turn their wheel, and when.",
    "Water that the wheel could not use went over the weir and on to the next mill.",
    "When one wheel broke, the keeper lowered its gate and the stream found another way.",
    "Nobody downstream had to know which wheel had turned; the flour looked the same.",
    "A good keeper wrote down every hour of water, because the mills paid by the hour.",
    "He let a little more through than a miller had asked for, never more than was left.",
    "In a dry summer he shared what there was, and told each miller when to come again.",
    "Frost taught him to test a gate gently before trusting it with the whole stream.",
    "And when a miller went home early, the keeper closed the gate at once.",
)

_PIECES = tuple(tuple(PIECE.findall(" " + sentence)) for sentence in SENTENCES)


def speak(source: str, prompt: str, *, endless: bool = False) -> Iterator[str]:
    """Yield the pieces of the answer that `source` gives to `prompt`: 60 to 170 of them, or without an end."""
    yield from PIECE.findall(f"This is a simulated answer from {source}; no model is running here.")
    seed = crc32(prompt.encode())
    place, left = seed % len(_PIECES), 3 + seed // len(_PIECES) % 5
    while endless or left:
        yield from _PIECES[place]
        place, left = (place + 1) % len(_PIECES), left - 1
