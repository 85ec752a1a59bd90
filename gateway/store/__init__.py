"""The store: Redis or Valkey behind one door, embedded when none is given."""
