"""The backends: how they are reached, found, watched and tried."""
