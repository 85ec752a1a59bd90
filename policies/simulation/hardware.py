"""What a machine can do for one model: the constants of an engine's steps, and the time that a step takes.

Law: time is what the arithmetic and the memory of a step cost, from the model's published shape and the cards' data
sheets, times a share that engines reach. Nobody measured these machines: they rank policies, they promise no seconds.

Mistral Medium 3.5, 128B, from its public configuration: dense, 88 layers, width 12288, 8 KV heads of 128; FP8 weights
of 134 GB; KV in BF16 of 2 x 88 x 8 x 128 x 2 bytes = 352 KiB a token. Cards, from NVIDIA's data sheets, without
sparsity: H100 has 80 GB at 3.35 TB/s, H200 141 GB at 4.8 TB/s, both 1,979 TFLOP/s in FP8 and 989 in BF16.
"""

from msgspec import Struct


class Hardware(Struct, frozen=True):
    """One machine that runs one model.

    `prefill_rate`: prompt tokens a second. `attention`: seconds that a prompt token takes more for each token before
    it. A step takes at least `step` seconds, the time to read the weights; each call that decodes in it takes
    `per_sequence` more, and each token of their contexts `per_context`. `room`: tokens of KV. `sequences`: calls in the
    batch at most. `chunk`: tokens of one step at most, prompts and answers together; more than `sequences`.
    """

    prefill_rate: float
    attention: float
    step: float
    per_sequence: float
    per_context: float
    room: int
    sequences: int = 256
    chunk: int = 4096

    def prefill(self, before: int, tokens: int) -> float:
        """Return the seconds of arithmetic that `tokens` of a prompt take with `before` of it in the cache."""
        return tokens / self.prefill_rate + self.attention * tokens * (before + tokens / 2)

    def work(self, prompt: int, cached: int, output: int, batch: int) -> float:
        """Return the seconds of this machine that a call takes up, its decode steps shared with `batch` calls."""
        context = self.per_context * (prompt + output / 2)
        return self.prefill(cached, prompt - cached) + output * (self.step / batch + self.per_sequence + context)


# Prefill: 2 x 128e9 FLOP a token at 40 % of the cards' FP8. Attention: 4 x 12288 x 88 FLOP for each pair of tokens at
# 60 % of their BF16. A step: the weights at 60 to 70 % of the memory's pace. Context: 352 KiB a token at 60 % of it.
# Room: 90 % of the memory less the weights. Sequences and chunk: usual settings of vLLM (`max_num_seqs`,
# `max_num_batched_tokens`). Per sequence: sampling and launching, a guess.

H200_X8 = Hardware(
    prefill_rate=25_000.0, attention=0.9e-9, step=0.006, per_sequence=20e-6, per_context=16e-9, room=2_400_000
)
"""Eight H200: the recommended machine."""

H100_X4 = Hardware(
    prefill_rate=12_000.0, attention=1.8e-9, step=0.014, per_sequence=20e-6, per_context=45e-9, room=430_000
)
"""Four H100: KV room is what it lacks."""

H200_X2 = Hardware(
    prefill_rate=6_200.0, attention=3.6e-9, step=0.020, per_sequence=20e-6, per_context=63e-9, room=330_000
)
"""Two H200: the least that holds the weights and one whole context window."""

MACHINES: dict[str, Hardware] = {"8xH200": H200_X8, "4xH100": H100_X4, "2xH200": H200_X2}
"""Those that a scenario can name."""
