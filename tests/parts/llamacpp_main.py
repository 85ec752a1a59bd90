"""The child process of `tests.parts.llamacpp`: one real llama.cpp HTTP server, until its standard input ends."""

import argparse
import json
import os
import sys
from pathlib import Path

import xllamacpp

_POOL_LAST = 3  # an embedding is the last token's; the engine's default pools nothing, which its own API refuses
_BATCH = 64  # tokens of prefill between two looks at the engine's queue: a cut or a question waits no longer


def _parameters() -> xllamacpp.CommonParams:
    """Read the command line into the engine's parameters."""
    parser = argparse.ArgumentParser(prog="python -m tests.parts.llamacpp_main")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--ctx", type=int, required=True, help="tokens over all slots together")
    parser.add_argument("--parallel", type=int, required=True, help="slots")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--embeddings", action="store_true")
    asked = parser.parse_args()
    engine = xllamacpp.CommonParams()
    engine.model.path = str(asked.model)
    engine.model_alias = {asked.alias}
    engine.hostnames = ["127.0.0.1"]
    engine.port = asked.port
    engine.n_ctx = asked.ctx
    engine.n_parallel = asked.parallel
    if asked.embeddings:
        engine.embedding = True
        engine.pooling_type = type(engine.pooling_type)(_POOL_LAST)
    engine.n_batch = engine.n_ubatch = _BATCH
    engine.no_extra_bufts = True  # weights stay in the mapped file, which all replicas share
    engine.cpuparams.n_threads = 1
    engine.cpuparams_batch.n_threads = 1
    engine.cache_ram_mib = 0  # no copies of old prompts: their saving shows as latency
    engine.warmup = False
    engine.use_jinja = True
    engine.endpoint_metrics = True
    engine.endpoint_slots = True
    return engine


def main() -> None:
    """Serve, say where on one JSON line, and leave with the parent."""
    os.nice(10)  # it stands for a GPU, which takes no processor from the gateway and its store
    server = xllamacpp.Server(_parameters())
    print(json.dumps({"url": server.listening_address}), flush=True)
    sys.stdin.read()  # ends when the parent does, however it ends
    os._exit(0)  # the engine's threads would finish their streams first


if __name__ == "__main__":
    main()
