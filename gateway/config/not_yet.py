"""The settings that the file format knows and nothing enforces yet.

Law: a limit that is not kept is never accepted. Each name goes away with the change that makes its setting work.
"""

NOT_YET: dict[str, frozenset[str]] = {
    "the file": frozenset({"transport"}),
    "a listen address": frozenset({"transport"}),
    "the operations address": frozenset({"tls", "trusted_proxies", "transport"}),
    "a backend": frozenset({"max_in_flight"}),
    "an organization": frozenset({"time_zone"}),
    "a plan": frozenset(
        {
            "requests_per_second",
            "requests_per_hour",
            "tokens_per_hour",
            "tokens_per_day",
            "tokens_per_week",
            "tokens_per_month",
            "input_tokens_per_minute",
            "input_tokens_per_hour",
            "output_tokens_per_minute",
            "output_tokens_per_hour",
            "budget_per_month",
            "overrun",
            "when_down",
            "models",
        }
    ),
}
"""Keys, by the noun of their row."""

NOT_YET_WHEN_DOWN = frozenset({"local"})
"""Values of `store.when_down`."""

NOT_YET_STORES = frozenset({"redis+sentinel", "redis+cluster"})
"""Schemes of `store.url`."""
