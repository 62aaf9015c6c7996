"""`scaleband data`: run tables that are shipped, or fetched from upstream and checked against their checksums."""

from __future__ import annotations

import argparse

from scaleband.cli.arguments import add_json, path
from scaleband.cli.printing import print_json, print_table
from scaleband.cli.verb import Exit, Verb


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    parts = parser.add_subparsers(dest="part", metavar="list|fetch", required=True)
    add_json(parts.add_parser("list", help="the data sets there are", allow_abbrev=False))
    fetch = parts.add_parser("fetch", help="get one, and print where it is", allow_abbrev=False)
    fetch.add_argument("name", metavar="NAME")
    fetch.add_argument(
        "--dir", type=path, metavar="FOLDER", help="where to keep it; the user's cache by default"
    )
    fetch.add_argument(
        "--mirror", type=path, metavar="FOLDER", help="take it from here, not from the network"
    )
    add_json(fetch)


def run(asked: argparse.Namespace) -> int:
    """List or fetch."""
    from dataclasses import asdict

    from scaleband.runs import data_sets, get

    if asked.part == "list":
        if asked.json:
            print_json({"data": [asdict(entry) for entry in data_sets()]})
        else:
            rows = [[e.name, f"{e.n_bytes / 1e6:.2f} MB", e.licence, e.what, e.url or "shipped"] for e in data_sets()]
            print_table(["name", "size", "licence", "what", "where"], rows)
        return Exit.DONE
    found = get(asked.name, directory=asked.dir, mirror=asked.mirror)
    if asked.json:
        entry = next(each for each in data_sets() if each.name == asked.name)
        print_json(asdict(entry) | {"path": str(found)})
    else:
        print(found)
    return Exit.DONE


VERB = Verb("data", "List run tables, shipped and public, or fetch one.", add, run)
