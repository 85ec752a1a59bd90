"""The file: read, checked and compiled into what the gateway runs on."""

from gateway.config.loading import builtin, load
from gateway.config.mistakes import ConfigError, Mistake
from gateway.config.settings import Settings

__all__ = ["ConfigError", "Mistake", "Settings", "builtin", "load"]
