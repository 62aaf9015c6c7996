"""Assemble two kinds of text from the packages that are installed here, and cut them into tokens.

    python tools/assemble_text.py OUT [--megabytes 20] [--vocab 256]

`OUT/code` holds Python source without comments and docstrings, `OUT/prose` what people wrote around it: docstrings,
the long descriptions of packages, the language reference that comes with Python. Each is a data folder for the
trainer, beside `sources.json`: packages, versions, bytes and a digest. The text itself is not committed: it
belongs to its authors, under their licences; the recipe gives the same text wherever the same versions are
installed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from scaleband.training import write_tokens

#: Large, freely licensed (BSD, MIT, Apache, PSF), and with many authors; those that are absent are left out.
PACKAGES = (
    "numpy", "pandas", "scipy", "matplotlib", "xarray", "pymc", "pytensor", "arviz-base", "arviz-stats", "jax", "numba",
    "torch", "dask", "distributed", "networkx", "sympy", "mypy", "hypothesis", "pytest", "ipython",
)  # fmt: skip
SMALLEST = 400  # bytes; shorter documents are boilerplate


def documents(tree: ast.AST) -> list[str]:
    """Take the docstrings out of a module; what stays in `tree` is code."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                found.append(text)
                node.body = node.body[1:] or [ast.Pass()]
    return found


def texts_of(package: str) -> Iterator[tuple[str, bytes]]:
    """(kind, text) of every file of an installed package, in a fixed order."""
    distribution = importlib.metadata.distribution(package)
    description = distribution.metadata.get_payload()
    if isinstance(description, str):
        yield "prose", description.encode()
    for file in sorted(distribution.files or [], key=str):
        if file.suffix != ".py" or "test" in str(file):
            continue
        try:
            tree = ast.parse(Path(str(file.locate())).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue  # not for this Python, or not there
        prose = "\n\n".join(documents(tree))
        yield "prose", prose.encode("utf-8", "replace")
        yield "code", ast.unparse(tree).encode("utf-8", "replace")


def reference() -> Iterator[tuple[str, bytes]]:
    """The language reference inside Python."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield "prose", topics[name].encode()


def main() -> int:
    """Assemble, and print the manifest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--megabytes", type=float, default=20.0, help="at most so much of each kind")
    parser.add_argument(
        "--vocab", type=int, default=256, help="256: bytes; more: byte pairs learnt on the text"
    )
    options = parser.parse_args()
    kept: dict[str, list[bytes]] = {"code": [], "prose": []}
    versions, seen = {"python": sys.version.split()[0]}, set()
    size = dict.fromkeys(kept, 0)
    streams: list[tuple[str, Iterator[tuple[str, bytes]]]] = [("python", reference())]
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        streams.append((package, texts_of(package)))
    for _, stream in streams:
        # no package may fill more than a third
        room = {kind: size[kind] + options.megabytes * 1e6 / 3 for kind in kept}
        for kind, text in stream:
            if all(size[each] > 0.98 * min(room[each], options.megabytes * 1e6) for each in kept):
                break
            digest = hashlib.sha256(text).digest()
            if (
                len(text) < SMALLEST
                or digest in seen
                or size[kind] + len(text) > min(room[kind], options.megabytes * 1e6)
            ):
                continue
            seen.add(digest)
            kept[kind].append(text)
            size[kind] += len(text)
    manifest = {"versions": versions}
    for kind, found in kept.items():
        # by digest, so that training and validation mix the packages
        found.sort(key=lambda text: hashlib.sha256(text).digest())
        tokens = write_tokens(found, options.out / kind, vocab_size=options.vocab, validation_share=0.05)
        manifest[kind] = {
            "documents": len(found), "bytes": size[kind], "tokenizer": tokens.tokenizer,
            "train_tokens": len(tokens.train), "validation_tokens": len(tokens.validation),
            "sha256": hashlib.sha256(b"\0".join(found)).hexdigest(),
        }  # fmt: skip
    text = json.dumps(manifest, indent=1)
    (options.out / "sources.json").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
