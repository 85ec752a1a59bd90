"""The tour and its simulated backends: everything that `sluiceway demo` needs beyond the gateway itself."""
