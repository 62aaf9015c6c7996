"""The command line: a table of verbs, one short function each. May reach every room; no room reaches it."""

from scaleband.cli.program import main

__all__ = ["main"]
