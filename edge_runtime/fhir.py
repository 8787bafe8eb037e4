"""A journal's outcomes as a FHIR R4 (4.0.1) Bundle of type collection, written one outcome at a time.

For each outcome a DiagnosticReport with its Observations, the Specimen and a Provenance; for each software with its
model and for each hardware one Device. Ids are made from the chain's hashes: an entry has the same ids in every export.

    no patient      a journal knows none: the Specimen has the item's name as its identifier, and whoever imports the
                    bundle links it to a person. A name that a clinic gives may itself say who it is: mind where it goes
    no effective    when the blood was taken is not known; `issued` is when it was read, by the device's clock
    preliminary     is the status of all that was read: no person has verified it
    repeat          a report that is `partial`: its verdict is `cancelled` with the reasons and has no value; how many
                    cells were read is told, parasitaemia and density are not
    an error        a report that is `cancelled` and was never issued, with the message
    none_found      is not coded as "not detected": it is so only above a limit, which the density says ("< X per uL")

Codes are LOINC, UCUM and HL7 where one fits for certain, text where not, and for verdicts this project's own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

Plain = dict[str, Any]
_NAMESPACE = uuid.UUID("5c0b2f0e-7d0a-4c53-9a55-3f3a8f3f8a41")  # made up once, so that ids stay
VERDICTS = f"urn:uuid:{uuid.uuid5(_NAMESPACE, 'verdicts')}"
_LOINC = "http://loinc.org"
_UCUM = "http://unitsofmeasure.org"
_HL7 = "http://terminology.hl7.org/CodeSystem"
_SEEN = {"system": _LOINC, "code": "51587-4", "display": "Plasmodium sp [Presence] in Blood by Light microscopy"}
_LAB = {"system": f"{_HL7}/v2-0074", "code": "LAB", "display": "Laboratory"}
_LABORATORY = {"system": f"{_HL7}/observation-category", "code": "laboratory", "display": "Laboratory"}
_SAID = {
    "parasites_found": "Cells that look infected are more than on nearly all healthy people's slides",
    "none_found": "No more cells look infected than on slides of healthy people",
}
_CAVEAT = "Read by software and not verified by a person. Not a medical device, and not for diagnosis."


def write_bundle(rows: Iterable[Plain], out: TextIO) -> None:
    """`rows` as Journal.outcomes gives them; each resource is a line of `out`."""
    now = _instant(datetime.now(UTC).isoformat(timespec="seconds"))
    out.write(f'{{"resourceType":"Bundle","type":"collection","timestamp":"{now}"')
    before = ',"entry":[\n'  # an empty list is not FHIR
    for entry in entries(rows):
        out.write(before + json.dumps(entry, ensure_ascii=False, separators=(",", ":")))
        before = ",\n"
    out.write("}\n" if before.startswith(',"') else "\n]}\n")


def entries(rows: Iterable[Plain]) -> Iterator[Plain]:
    """{"fullUrl", "resource"}, each once, and what others refer to first."""
    devices: set[str] = set()
    for row in rows:
        key = row.get("entry_hash") or f"{row['item']}\n{row['item_digest']}\n{row['when']}"
        hardware, software = _hardware(row), _software(row)
        for device in (hardware, software):
            if device["id"] not in devices:
                devices.add(device["id"])
                yield _entry(device)
        specimen = _specimen(row, key)
        yield _entry(specimen)
        about = {"specimen": _reference(specimen), "device": _reference(software)}
        results = list(_observations(row, key, about))
        for one in results:
            yield _entry(one)
        report = _report(row, key, results, specimen)
        yield _entry(report)
        yield _entry(_provenance(row, key, report, software))


# ---------------------------------------------------------------- the report and what it is about


def _report(row: Plain, key: str, results: list[Plain], specimen: Plain) -> Plain:
    status = "cancelled" if row["error"] else "partial" if row.get("verdict") == "repeat" else "preliminary"
    made = _resource("DiagnosticReport", key, "report")
    if "entry_hash" in row:
        made["identifier"] = [_identifier(f"hash of entry {row['entry']} of the journal", row["entry_hash"])]
    made |= {"status": status, "category": [{"coding": [_LAB]}], "code": results[0]["code"]}
    if status != "cancelled":
        made["issued"] = _instant(row["when"])
    made |= {"specimen": [_reference(specimen)], "result": [_reference(one) for one in results]}
    return made | {"conclusion": _conclusion(row)}


def _conclusion(row: Plain) -> str:
    said = []
    if row["error"]:
        said.append(f"Not read: {row['error']['message']}")
    elif row.get("verdict") == "repeat":
        said.append("No answer; to be photographed again.")
    elif "verdict" in row:
        said.append(f"{_SAID.get(row['verdict'], row['verdict'])}.")
    said += row.get("reasons") or ()
    if earlier := row.get("earlier_entry"):
        said.append(f"It was read before with other images (entry {earlier}): to be counted once.")
    if same := row.get("same_contents_as"):
        said.append(f"The same images were read as {same['item']} (entry {same['entry']}): to be counted once.")
    if back_s := row.get("clock_back_s"):
        said.append(f"The device's clock was {back_s} s behind that of the entry before.")
    return " ".join([*said, _CAVEAT])


def _specimen(row: Plain, key: str) -> Plain:
    made = _resource("Specimen", key, "specimen")
    made["identifier"] = [_identifier("name of the folder or file", row["item"])]
    if row["item_digest"]:
        made["identifier"].append(_identifier("BLAKE2b-256 of the images", row["item_digest"]))
    if row["kind"] == "slides":
        made["type"] = {"text": "stained thin blood film, as photographs"}
    return made


def _provenance(row: Plain, key: str, report: Plain, software: Plain) -> Plain:
    what: Plain = {"display": row["item"]}
    if row["item_digest"]:
        what["identifier"] = _identifier("BLAKE2b-256 of the images", row["item_digest"])
    return _resource("Provenance", key, "provenance") | {
        "target": [_reference(report)],
        "recorded": _instant(row["when"]),
        "activity": {"text": "read by a model on the device that the software's parent names"},
        "agent": [{"type": {"text": "software"}, "who": _reference(software)}],
        "entity": [{"role": "source", "what": what}],
    }


# ---------------------------------------------------------------- devices


def _hardware(row: Plain) -> Plain:
    made = _resource("Device", row["device"], "hardware", row.get("device_digest") or "")
    if row.get("device_digest"):
        made["identifier"] = [_identifier("SHA-256 of the device's profile", row["device_digest"])]
    made["deviceName"] = [{"name": row["device"], "type": "model-name"}]
    return made


def _software(row: Plain) -> Plain:
    versions = {
        "edge_runtime": row.get("edge_runtime"),
        "model": row["bundle"],
        "SHA-256 of the model's bundle": row["bundle_digest"],
        "variant": row["variant"],
        "SHA-256 of the variant": row.get("variant_digest"),
        "engine": f"{row['engine']} {row['engine_version']}",
    }
    threads, limit = row.get("threads"), row.get("device_ram_bytes")
    hardware = _hardware(row)
    key = json.dumps([versions, threads, limit, hardware["id"]])
    made = _resource("Device", key, "software")
    made["deviceName"] = [{"name": f"edge_runtime with {row['bundle']}", "type": "user-friendly-name"}]
    made["version"] = [{"type": {"text": name}, "value": value} for name, value in versions.items() if value]
    settings = []
    if limit:
        settings.append({"type": {"text": "memory limit"}, "valueQuantity": [_quantity(limit, "byte", "By")]})
    if threads:
        settings.append({"type": {"text": "threads"}, "valueQuantity": [_quantity(threads, "threads", "{threads}")]})
    return made | ({"property": settings} if settings else {}) | {"parent": _reference(hardware)}


# ---------------------------------------------------------------- observations


def _observations(row: Plain, key: str, about: Plain) -> Iterator[Plain]:
    """The one that answers comes first."""

    def observe(part: str, code: Plain, status: str = "preliminary", **fields: Any) -> Plain:
        made = _resource("Observation", key, part) | {"status": status}
        made |= {"category": [{"coding": [_LABORATORY]}], "code": code}
        issued = {} if row["error"] else {"issued": _instant(row["when"])}
        return made | issued | fields | about

    if row["error"]:
        absent = _absent("error", "Error", row["error"]["message"])
        yield observe("answer", {"text": f"Reading by {row['bundle']}"}, "cancelled", dataAbsentReason=absent)
    elif row["kind"] == "slides":
        yield from _of_a_slide(row, observe)
    elif row.get("labels"):
        parts = [
            {"code": {"text": one["label"]}, "valueQuantity": _quantity(one["score"], "probability", "1")}
            for one in row["labels"]
        ]
        best = {"text": row["labels"][0]["label"]}
        code = {"text": f"Classification of an image by {row['bundle']}"}
        yield observe("answer", code, valueCodeableConcept=best, component=parts)
    else:
        absent = _absent("unsupported", "Unsupported", f"an answer of the kind {row['kind']} has no form here yet")
        yield observe("answer", {"text": f"Reading by {row['bundle']}"}, dataAbsentReason=absent)


def _of_a_slide(row: Plain, observe: Any) -> Iterator[Plain]:
    verdict, reasons = row["verdict"], " ".join(row["reasons"])
    code = {"coding": [_SEEN], "text": "Malaria parasites on a thin blood film, by software"}
    if verdict == "repeat":
        absent = _absent("unknown", "Unknown", reasons or "no answer")
        yield observe("answer", code, "cancelled", dataAbsentReason=absent)
    else:
        own = {"system": VERDICTS, "code": verdict, "display": verdict.replace("_", " ")}
        value = {"coding": [own], "text": f"{_SAID.get(verdict, verdict)}. {reasons}".strip()}
        yield observe("answer", code, valueCodeableConcept=value)
    for part, text in (("cells", "Red cells read"), ("infected", "Red cells that look infected")):
        yield observe(part, {"text": text}, valueQuantity=_quantity(row[part], "cells", "{cells}"))
    density = {"text": "Parasites per microlitre of blood"}
    formula = [{"text": row["formula"]}] if row.get("formula") else []
    if verdict == "parasites_found":
        low, high = row["interval_percent"]
        parts = [
            {"code": {"text": f"{edge} end of the interval"}, "valueQuantity": _quantity(value, "%", "%")}
            for edge, value in (("lower", low), ("upper", high))
        ]
        value = _quantity(row["parasitaemia_percent"], "%", "%")
        code = {"text": "Infected share of red cells (parasitaemia)"}
        yield observe("parasitaemia", code, valueQuantity=value, component=parts)
        per_ul = _quantity(row["parasites_per_ul"], "parasites per microlitre", "/uL")
        yield observe("density", density, valueQuantity=per_ul, note=formula)
    elif verdict == "none_found":
        below = _quantity(_up(row["not_excluded_below_per_ul"]), "parasites per microlitre", "/uL")
        yield observe("density", density, valueQuantity=below | {"comparator": "<"}, note=formula)


# ---------------------------------------------------------------- small parts


def _resource(kind: str, key: str, part: str, more: str = "") -> Plain:
    return {"resourceType": kind, "id": str(uuid.uuid5(_NAMESPACE, f"{part}\n{key}\n{more}"))}


def _entry(resource: Plain) -> Plain:
    plain = {name: value for name, value in resource.items() if value != []}
    return {"fullUrl": f"urn:uuid:{resource['id']}", "resource": plain}


def _reference(resource: Plain) -> Plain:
    return {"reference": f"urn:uuid:{resource['id']}"}


def _identifier(what: str, value: str) -> Plain:
    return {"type": {"text": what}, "value": value}


def _absent(code: str, display: str, text: str) -> Plain:
    return {"coding": [{"system": f"{_HL7}/data-absent-reason", "code": code, "display": display}], "text": text}


def _quantity(value: float, unit: str, code: str) -> Plain:
    exact = value if isinstance(value, int) else float(f"{value:.6g}")
    return {"value": exact, "unit": unit, "system": _UCUM, "code": code}


def _up(value: float) -> int:
    """Two figures, rounded up as in the verdict's own words: what cannot be excluded is never understated."""
    unit: int = 10 ** max(0, len(str(int(value))) - 2)
    return int(-(-value // unit)) * unit


def _instant(when: str) -> str:
    """UTC with a Z, as most readers of FHIR like it best."""
    return when.replace("+00:00", "Z")
