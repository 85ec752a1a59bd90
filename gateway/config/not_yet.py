"""The settings that the file format knows and nothing enforces yet.

Law: a limit that is not kept is never accepted. Each name goes away with the change that makes its setting work.
"""

NOT_YET: dict[str, frozenset[str]] = {
    "the file": frozenset({"transport"}),
    "a listen address": frozenset({"transport"}),
    "the operations address": frozenset({"tls", "trusted_proxies", "transport"}),
}
"""Keys, by the noun of their row."""
