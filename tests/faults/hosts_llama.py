"""The child process of `HostedLlama`: a real llama.cpp that listens at the address LISTEN."""

import os

from tests.parts import llamacpp_main as engine

_parameters = engine._parameters


def _there():
    parameters = _parameters()
    parameters.hostnames = [os.environ["LISTEN"]]
    return parameters


if __name__ == "__main__":
    engine._parameters = _there
    engine.main()
