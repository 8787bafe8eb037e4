"""The verb `journal`: its options, and what it does with them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import JournalError, UsageError

if TYPE_CHECKING:
    from edge_runtime.journal import Journal

_FORMS = ("csv", "json", "fhir")


def add_journal(parser: argparse.ArgumentParser) -> None:
    """Its options; --json is there already."""
    parser.add_argument("journal", metavar="FILE")
    parser.add_argument("--since", help="today, yesterday, 7d, 12h, or a date such as 2026-11-30")
    parser.add_argument("--item", metavar="NAME", help="this item alone; 'ward-2-*' for all whose names match")
    parser.add_argument("--history", action="store_true", help="also the errors that a later reading replaced")
    parser.add_argument("--csv", action="store_true", help="CSV with a header line")
    parser.add_argument(
        "--fhir", action="store_true", help="a FHIR R4 Bundle: reports, observations and devices, without a patient"
    )
    chain = parser.add_argument_group("the chain", "each entry has a hash over all before it")
    chain.add_argument(
        "--verify", action="store_true", help="work out every hash anew; exit 1 at the first that is off"
    )
    chain.add_argument("--head", metavar="HASH", help="with --verify: a head that was noted before must still be in it")
    chain.add_argument("--copy", metavar="NEW.db", type=Path, help="a whole copy, also while a loop records")
    chain.add_argument(
        "--rescue", metavar="NEW.db", type=Path, help="what can be read of a damaged file, into a new one"
    )


def journal(arguments: argparse.Namespace) -> int:
    """Returns the exit code. Raises EdgeError."""
    forms = [f"--{one}" for one in _FORMS if getattr(arguments, one)]
    _check(arguments, forms)
    if arguments.rescue:
        return _rescue(arguments)
    from edge_runtime.journal import Journal

    if arguments.copy:
        from edge_runtime.journal_file import copy_file

        with Journal(arguments.journal, create=False) as book:
            copy_file(Path(arguments.journal), arguments.copy)
            if book.version == 1:
                print(f"{arguments.copy}: copied; its {len(book)} outcomes have no hashes to check")
                return 0
        arguments.journal, arguments.verify = str(arguments.copy), True
    with Journal(arguments.journal, create=False) as book:
        if arguments.verify:
            return _verify(arguments, book)
        rows = (book.history if arguments.history else book.outcomes)(arguments.since, arguments.item)
        from edge_runtime.journal_export import as_lines, write_csv, write_json

        if arguments.csv:
            write_csv(rows, sys.stdout)
        elif arguments.fhir:
            from edge_runtime.fhir import write_bundle

            write_bundle(rows, sys.stdout)
        elif arguments.json:
            write_json(rows, sys.stdout)
        else:
            for line in as_lines(rows):
                print(line)
        if arguments.since and (left := book.misdated(arguments.since)):
            print(
                f"edge-runtime: {left} more outcomes have a date before that which cannot be right, for the clock was "
                "set back: without --since they are there",
                file=sys.stderr,
            )
    return 0


def _check(arguments: argparse.Namespace, forms: list[str]) -> None:
    if len(forms) > 1:
        raise UsageError(f"{' and '.join(forms)} are {len(forms)} forms: give one of them")
    if arguments.head is not None and not arguments.verify:
        raise UsageError("--head goes with --verify")
    for name in ("verify", "copy", "rescue"):
        others = [
            one for one in ("since", "item", "history", "csv", "fhir", "copy", "rescue") if getattr(arguments, one)
        ]
        others = [one for one in others if one != name]
        if getattr(arguments, name) and others:
            raise UsageError(f"--{name} is of the whole file: it does not go with --{others[0]}")


def _verify(arguments: argparse.Namespace, book: Journal) -> int:
    from edge_runtime.journal_check import verify

    found = verify(book, arguments.head)
    if arguments.json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        for first, last in found.lost:
            print(f"entries {first} to {last} were lost when it was rescued")
        if found.old_head:
            print(f"before it was rescued: entry {found.old_head.number}, head {found.old_head.hash}")
    if found.problem:
        where = f"entry {found.broken_entry}: " if found.broken_entry else ""
        raise JournalError(f"{arguments.journal}: {where}{found.problem}")
    if arguments.json:
        return 0
    print(f"{arguments.journal}: {found.head.number} entries, {found.outcomes} outcomes; every hash fits")
    if found.taken_over:
        last = found.taken_over + 1
        print(f"entries 2 to {last} were there before the chain began: a change before that does not show")
    if found.found_head:
        print(f"the noted head is entry {found.found_head}")
    print(f"head {found.head.hash}")
    print("note the head elsewhere (16 digits do): entries cut off at the end show only by it")
    print("not in the chain: the marks by which the loop passes over files; one that was forged hides a slide from it")
    return 0


def _rescue(arguments: argparse.Namespace) -> int:
    from edge_runtime.journal_rescue import rescue

    found = rescue(Path(arguments.journal), arguments.rescue)
    if arguments.json:
        print(json.dumps(found._asdict()))
        return 0
    count = sum(last - first + 1 for first, last in found.lost)
    print(f"{arguments.rescue}: {found.saved} outcomes saved, {count} entries lost")
    lost = [str(first) if first == last else f"{first}-{last}" for first, last in found.lost]
    for word, numbers in (("lost", lost), ("not as they were recorded", found.changed)):
        if numbers:
            more = " ..." if len(numbers) > 20 else ""
            print(f"{word}: {', '.join(map(str, numbers[:20]))}{more}")
    return 0
