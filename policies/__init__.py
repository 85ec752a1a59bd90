"""The pure core: values in, decisions out.

Law: nothing here awaits, opens a socket, reads a clock, rolls dice, logs or imports `gateway`. Time (`now`, seconds of
a monotonic clock unless a name says otherwise) and chance (`random.Random`) are arguments.
"""
