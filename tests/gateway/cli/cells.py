"""Reading what a command printed as a table."""

import re


def cells(told):
    """Return the cells of each line; at least two spaces stand between two of them."""
    return [re.split(r" {2,}", line.strip()) for line in told.splitlines()]
