"""Who is calling: API keys, their records in the store, and the principal that a request's headers name."""
