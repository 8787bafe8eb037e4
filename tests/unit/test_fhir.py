"""Every kind of outcome as FHIR: by two public libraries, and by the rules of R4 that neither of them checks."""

from __future__ import annotations

import io
import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import InputError
from edge_runtime.fhir import write_bundle
from edge_runtime.journal import Journal
from edge_runtime.results import Outcome, Prediction
from tests.unit.test_journal import ORIGIN, WHEN, outcome

SLIDE: dict[str, Any] = {
    "cells": 1000,
    "infected": 40,
    "verdict": "parasites_found",
    "reasons": ["40 of 1,000 cells called infected; healthy people show as many on fewer than 1 in 1,000 slides."],
    "parasitaemia_percent": 5.512345678,
    "interval_percent": [3.6, 11.0],
    "parasites_per_ul": 275617.2839,
    "formula": "infected share of red cells x 5,000,000 red cells per microlitre (assumed)",
    "not_excluded_below_per_ul": None,
}
NONE = {"verdict": "none_found", "infected": 0, "not_excluded_below_per_ul": 48900.0, "reasons": ["None."]}
REPEAT = {"verdict": "repeat", "cells": 0, "infected": 0, "reasons": ["No red cell was found."]}
NO_FIGURES = {"parasitaemia_percent": None, "interval_percent": None, "parasites_per_ul": None}


def slide(item: str, **changes: Any) -> Outcome:
    return Outcome(item, f"of {item}", WHEN, ORIGIN, Prediction("slides", "", SLIDE | changes))


OUTCOMES = {
    "parasites_found": slide("slide 1"),
    "none_found": slide("slide 2", **NONE),
    "repeat": slide("slide 3", **REPEAT, **NO_FIGURES),
    "repeat without a reason": slide("slide 4", **REPEAT | NO_FIGURES | {"reasons": []}),
    "an image": outcome("ä.png"),
    "an error": outcome("broken", error="broken: found 0 bytes"),
    "an error of nothing": Outcome("gone", "", WHEN, ORIGIN, None, InputError("gone: found nothing there")),
    "another kind": Outcome("a.wav", "d", WHEN, ORIGIN, Prediction("keyword", "yes", {"word": "yes"})),
}


def bundle(path: Path, *outcomes: Outcome) -> dict[str, Any]:
    out = io.StringIO()
    with Journal(path) as book:
        assert all(map(book.add, outcomes))
        write_bundle(book.outcomes(), out)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def of_kind(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one["resource"] for one in found["entry"] if one["resource"]["resourceType"] == kind]


def check(found: dict[str, Any]) -> None:
    """Raises where it is not FHIR R4."""
    pytest.importorskip("fhirclient", reason="checks against R4 4.0.1: pip install fhirclient")
    from fhir.resources.R4B.bundle import Bundle as R4B
    from fhirclient.models.bundle import Bundle as R4

    R4(found, strict=True).as_json()
    R4B.model_validate(found)


@pytest.mark.parametrize("name", OUTCOMES)
def test_two_libraries_take_it(name: str, tmp_path: Path):
    check(bundle(tmp_path / "j.db", OUTCOMES[name]))


def test_they_take_a_whole_journal_and_an_empty_one(tmp_path: Path):
    whole = bundle(tmp_path / "j.db", *OUTCOMES.values())
    check(whole)
    assert len(of_kind(whole, "DiagnosticReport")) == len(OUTCOMES)
    assert len(of_kind(whole, "Device")) == 2, "one software and one hardware, once each"
    empty = bundle(tmp_path / "empty.db")
    check(empty)
    assert "entry" not in empty, "an empty list is not FHIR"


def test_what_is_wrong_is_refused_by_the_libraries(tmp_path: Path):
    found = bundle(tmp_path / "j.db", OUTCOMES["none_found"])
    del of_kind(found, "DiagnosticReport")[0]["code"]
    with pytest.raises(Exception, match=r"(?s)code"):
        check(found)


STATUS = {
    "DiagnosticReport": {"partial", "preliminary", "cancelled"},
    "Observation": {"preliminary", "cancelled"},
}


def walk(plain: Any) -> Any:
    yield plain
    for one in plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ():
        yield from walk(one)


def test_the_rules_that_libraries_leave_out(tmp_path: Path):
    found = bundle(tmp_path / "j.db", *OUTCOMES.values())
    urls = [one["fullUrl"] for one in found["entry"]]
    assert len(set(urls)) == len(urls)  # bdl-7
    for entry in found["entry"]:
        assert entry["fullUrl"] == f"urn:uuid:{uuid.UUID(entry['resource']['id'])}"
    for part in walk(found):
        assert part not in (None, "", [], {})
        if isinstance(part, dict) and "reference" in part:
            assert urls.count(part["reference"]) == 1
        if isinstance(part, dict) and "system" in part:
            assert re.fullmatch(r"(https?://|urn:uuid:)\S+", part["system"])
            assert re.fullmatch(r"\S+( \S+)*", part["code"])
    for kind, allowed in STATUS.items():
        for one in of_kind(found, kind):
            assert one["status"] in allowed
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one.get("issued", "2026-11-25T10:00:00Z"))
    for one in of_kind(found, "Observation"):
        has = [name for name in one if name.startswith("value")]
        assert len(has) + ("dataAbsentReason" in one) == 1  # obs-6, and always one of them
    assert not [one for one in walk(found) if isinstance(one, dict) and "subject" in one]


def report(tmp_path: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = bundle(tmp_path / "j.db", OUTCOMES[name])
    (one,) = of_kind(found, "DiagnosticReport")
    by_url = {entry["fullUrl"]: entry["resource"] for entry in found["entry"]}
    return one, [by_url[result["reference"]] for result in one["result"]]


def test_found(tmp_path: Path):
    one, (answer, cells, infected, share, density) = report(tmp_path, "parasites_found")
    assert (one["status"], one["issued"]) == ("preliminary", "2026-11-25T10:00:00Z")
    assert answer["valueCodeableConcept"]["coding"][0]["code"] == "parasites_found"
    assert answer["code"]["coding"][0]["code"] == "51587-4"
    assert (cells["valueQuantity"]["value"], infected["valueQuantity"]["value"]) == (1000, 40)
    assert share["valueQuantity"] == {
        "value": 5.51235,
        "unit": "%",
        "system": "http://unitsofmeasure.org",
        "code": "%",
    }
    assert [part["valueQuantity"]["value"] for part in share["component"]] == [3.6, 11.0]
    assert density["valueQuantity"]["code"] == "/uL"
    assert "red cells per microlitre (assumed)" in density["note"][0]["text"]


def test_none_found_is_a_limit_and_never_not_detected(tmp_path: Path):
    one, (answer, _, _, density) = report(tmp_path, "none_found")
    assert (density["valueQuantity"]["comparator"], density["valueQuantity"]["value"]) == ("<", 49000)
    assert "snomed" not in json.dumps(answer)
    assert "interpretation" not in answer
    assert "not verified by a person" in one["conclusion"]


def test_repeat_and_errors_have_no_value(tmp_path: Path):
    one, results = report(tmp_path, "repeat")
    assert one["status"] == "partial"
    assert results[0]["status"] == "cancelled"
    assert results[0]["dataAbsentReason"]["text"] == "No red cell was found."
    assert len(results) == 3, "neither parasitaemia nor density"
    (tmp_path / "j.db").unlink()
    one, (answer,) = report(tmp_path, "an error")
    assert (one["status"], "issued" in one) == ("cancelled", False)
    assert answer["dataAbsentReason"]["coding"][0]["code"] == "error"


def test_ids_come_from_the_chain(tmp_path: Path):
    first = bundle(tmp_path / "a.db", OUTCOMES["an image"])
    with Journal(tmp_path / "a.db") as book:
        again = io.StringIO()
        write_bundle(book.outcomes(), again)
        (row,) = book.outcomes()
    assert json.loads(again.getvalue())["entry"] == first["entry"]
    other = bundle(tmp_path / "b.db", OUTCOMES["an image"])
    reports = [of_kind(one, "DiagnosticReport")[0] for one in (first, other)]
    assert reports[0]["id"] != reports[1]["id"], "two devices that read the same at the same second"
    assert reports[0]["identifier"][0]["value"] == row["entry_hash"]
