"""The command line: a table of verbs, one short function each."""
