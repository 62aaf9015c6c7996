"""One plot a file: a data function, then a drawing function."""
