"""Simulators of the engines that cannot run here, exact on the wire.

Law: every quirk names its source: a file of the project, a page of its manual, or an issue in which it was seen. What
no source tells is marked as a guess.

Each is a class to be used as `async with NvidiaServer() as hosted:` with `hosted.url`; it streams and answers plainly,
counts what it generated, and does per call what `enqueue` of `ScriptedServer` was told.
"""
