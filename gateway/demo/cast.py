"""Who plays in the demo: the simulated backends, the model they serve, the organization that calls.

Law: names and figures only, so that the backends can be started before anything heavy is imported.
"""

from gateway.demo.backend import Simulated

ORGANIZATION = "demo"

MODEL = "mistral-medium-3.5"
"""The name that callers ask for."""

UPSTREAM = "mistralai/Mistral-Medium-3.5-128B"
"""The name that the backends know it by."""

GPUS = (
    Simulated("simulated-gpu-a", UPSTREAM, ttft=0.15, token_time=0.02),
    Simulated("simulated-gpu-b", UPSTREAM, ttft=0.15, token_time=0.02),
)
"""Two replicas on own machines: seconds to the first token and a token as such places have them."""

HOSTED = Simulated("simulated-hosted", UPSTREAM, ttft=0.35, token_time=0.012)
"""A hosted endpoint: further away, faster, and paid by the token."""
