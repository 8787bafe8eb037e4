"""The forms in which rows of a benchmark are shown: what a reader sees, what a spreadsheet gets, what is refused."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bench.html import as_html
from edge_runtime.bench.plots import axis, front, thin
from edge_runtime.bench.show import CSV_COLUMNS, as_csv, as_markdown, as_table, read_jsonl, write_jsonl
from edge_runtime.bench.verdict import answer, warnings
from edge_runtime.bench.words import figure, span
from edge_runtime.errors import EdgeError
from tests.unit.bench_samples import sample_row, sample_rows, with_energy, with_sustained

HOSTILE = '</style></title><script>alert("1")</script>\x1b[31m\u202e\x00\ud800|`*=cmd()&amp;'
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every tag that opens is closed, in order; gathers its text and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.values: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [f"{key}={value}" for key, value in attrs]
        assert len({key for key, _ in attrs}) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [f"{key}={value}" for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(rows: list[Any], title: str = "A benchmark") -> Page:
    made = as_html(rows, title)
    made.encode()
    assert "http:" not in made and "https:" not in made and "url(" not in made.replace("url(#hatch)", "")
    found = Page(made)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(found.tags)
    assert not [one for one in found.values if one.startswith(("on", "src=", "href="))]
    assert "nan" not in re.findall(r'\b(?:x|y|x1|x2|width|points|cx)="([^"]*)"', made)
    return found


# ---------------------------------------------------------------- the table, Markdown


def test_table_fits_120_columns_and_says_ratios_noise_and_validity() -> None:
    rows = [with_energy(row) for row in sample_rows()]
    rows[1]["energy"]["basis"] = "modelled"
    rows[2]["noise"] = {"level": "very noisy", "spread": 0.2, "why": ["another program ran"]}
    rows[3]["valid"], rows[3]["invalid"] = False, ["on charge"]
    made = as_table(rows)
    table, _, said = made.partition("\n\nint8 on onnxruntime, 1 thread takes ")
    assert max(map(len, table.splitlines())) <= 120
    assert re.match(r"0\.\d+ \(0\.\d+ to 0\.\d+\) of the time of fp32 on onnxruntime, 1 thread\.", said)
    assert "no difference is shown" in said  # fp32 on the two engines: the interval has 1 in it
    assert "measured:ina219" in table and "modelled" in table and "INVALID" in table
    assert "INVALID: int8 on litert, 1 thread: on charge." in said
    assert "only large differences mean anything (another program ran)" in said


def test_what_is_empty_is_left_out_and_what_is_the_same_is_said_once() -> None:
    made = as_table(sample_rows())
    assert "energy" not in made
    assert made.startswith("all rows: noise quiet (1.1 %), valid\n")
    assert as_table([]) == "no rows\n"


def test_wide_characters_keep_columns_aligned() -> None:
    rows = sample_rows()[:2]
    rows[0]["label"] = "疟疾 模型"
    lines = as_table(rows).splitlines()
    rule = next(line for line in lines if line.startswith("---"))
    row = next(line for line in lines if line.startswith("疟疾"))
    assert len(row) == len(rule) - 4  # four characters that take two columns each


def test_markdown_keeps_hostile_labels_in_their_cell() -> None:
    rows = sample_rows()[:2]
    rows[0]["label"] = HOSTILE
    lines = as_markdown(rows).splitlines()
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]]
    assert len(set(bars)) == 1 and "<script" not in lines[2] and "\x1b" not in lines[2]


# ---------------------------------------------------------------- CSV


def test_csv_has_one_line_a_row_with_full_figures() -> None:
    rows = [with_energy(row) for row in sample_rows()]
    rows[0]["label"] = "=HYPERLINK(1)\nsecond line"
    made = as_csv(rows)
    assert len(made.splitlines()) == 1 + len(rows)
    found = list(csv.DictReader(io.StringIO(made)))
    assert list(found[0]) == list(CSV_COLUMNS)
    assert found[0]["label"] == "'=HYPERLINK(1) second line"
    assert [float(one["latency_p50_ms"]) for one in found] == [row["latency_ms"]["p50"] for row in rows]
    assert [int(one["peak_bytes"]) for one in found] == [row["memory"]["peak_bytes"] for row in rows]
    assert found[3]["ratio_to"] == rows[3]["ratios"][0]["to"]
    assert found[0]["ratio"] == "" and found[0]["valid"] == "yes"


# ---------------------------------------------------------------- JSON lines


def test_jsonl_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows, path = sample_rows(), tmp_path / "rows.jsonl"
    write_jsonl(path, rows[:2])
    write_jsonl(path, rows[2:], append=True)
    assert read_jsonl(path) == rows


def test_a_last_line_cut_by_power_is_passed_over_and_appended_after(tmp_path: Path) -> None:
    rows, path, said = sample_rows(), tmp_path / "rows.jsonl", []
    write_jsonl(path, rows)
    for cut in (b"", b"\0" * 200, path.read_bytes()[:300]):
        write_jsonl(path, rows[:2])
        path.write_bytes(path.read_bytes() + cut)
        assert read_jsonl(path, said.append) == rows[:2]
        write_jsonl(path, rows[2:], append=True)
        assert read_jsonl(path) == rows
    assert len(said) == 2 and said[0].endswith("rows.jsonl, line 3: cut off, passed over; 2 rows before it are whole")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{", "line 2: found no JSON"),
        (b"\xff\xfe{}", "line 2: found no JSON"),
        (b"[1]", "line 2: found a list, wanted a row"),
        (b'{"schema": 2, "label": "a"}', "line 2: found schema 2, wanted 1"),
        (b'{"schema": true, "label": "a"}', "line 2: found schema True, wanted 1"),
        (b'{"schema": 1, "label": " "}', "line 2: label: found ' ', wanted text"),
        (
            b'{"schema": 1, "label": "a", "latency_ms": {"p50": NaN}}',
            "line 2: latency_ms.p50: found nan, wanted a finite",
        ),
        (
            b'{"schema": 1, "label": "a", "latency_ms": {"p50": "3"}}',
            "line 2: latency_ms.p50: found '3', wanted a number",
        ),
        (b'{"schema": 1, "label": "a", "latency_ms": {"interval": [1]}}', "interval: found a list, wanted a pair"),
        (b'{"schema": 1, "label": "a", "throughput": [null]}', "throughput.0.: found null, wanted no null"),
        (b'{"schema": 1, "label": "a", "memory": {"peak_bytes": 1' + b"0" * 400 + b"}}", "more than 18 digits"),
        (b'{"schema": 1, "label": "a", "new": [[1e999]]}', "new.0..0.: found inf, wanted a finite"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    path = tmp_path / "rows.jsonl"
    whole = json.dumps(sample_row()).encode()
    path.write_bytes(b"\n".join([whole, line, whole, b""]))
    with pytest.raises(EdgeError, match=found) as caught:
        read_jsonl(path)
    assert caught.value.message.startswith(f"{path}, line 2")


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="none.jsonl: cannot be read: No such file"):
        read_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(EdgeError, match="cannot be written"):
        write_jsonl(tmp_path / "no" / "rows.jsonl", sample_rows())
    broken = sample_row()
    broken["latency_ms"]["p50"] = float("nan")
    with pytest.raises(EdgeError, match="row 1: latency_ms.p50: found nan"):
        write_jsonl(tmp_path / "rows.jsonl", [broken])


# ---------------------------------------------------------------- what is said


def test_the_answer_names_winners_by_how_much_and_how_surely() -> None:
    fastest, memory, file = answer(sample_rows())
    assert fastest.label == "int8-lite on litert, 1 thread" and fastest.sure is True
    assert "The next, int8 on litert, 1 thread, takes 1.48 times as long; that is certain (95 %)." in fastest.sentence
    assert memory.sure is False and "2 more within 3 %" in memory.sentence
    assert file.label == "int8-lite (tflite)"


def test_a_difference_within_the_uncertainty_is_not_certain() -> None:
    rows = sample_rows()
    for row in rows:
        row["latency_ms"]["interval"] = [1.0, 9.0]
    assert answer(rows)[0].sure is False
    assert "may be as fast" in answer(rows)[0].sentence
    rows[3]["ratios"] = [{"to": rows[4]["label"], "ratio": 1.4, "interval": [1.3, 1.5], "pairs": 25}]
    assert answer(rows)[0].sure is True  # paired in one run, which says more than the intervals


def test_invalid_rows_win_nothing_and_a_modelled_energy_beats_no_measured_one() -> None:
    rows = [with_energy(row) for row in sample_rows()]
    rows[4]["valid"], rows[3]["energy"]["basis"] = False, "modelled"
    best = {one.about: one for one in answer(rows)}
    assert best["Fastest"].label == "int8 on litert, 1 thread"
    assert best["Least energy"].label == "int8 on onnxruntime, 1 thread"


def test_warnings_are_in_plain_words() -> None:
    rows = sample_rows()
    rows[0]["circumstances"]["after"]["charging"] = True
    rows[1]["circumstances"]["steal_percent"] = 3.1
    rows[2]["protocol"]["form"] = "quick"
    rows[3] = with_sustained(rows[3], 400)
    rows[4]["protocol"]["together_with"] = []
    said = "\n".join(warnings(rows))
    for words in ("1 of 5 rows is not valid", "was on charge", "3.10 % of the processor", "quick form", "held back"):
        assert words in said
    assert "Not all rows were measured in turn" in said
    assert warnings(sample_rows()) == []


# ---------------------------------------------------------------- the page


def test_the_page_answers_warns_and_repeats() -> None:
    rows = [with_energy(row) for row in sample_rows()]
    rows[1]["energy"] = None
    found = page(rows, "Malaria on a Pi 4")
    for words in (
        *("Malaria on a Pi 4", "Fastest is int8-lite on litert, 1 thread", "5 configurations of malaria 1.0.0"),
        *("Raspberry Pi 4 Model B Rev 1.4", "2026-12-02 09:14 UTC", "no meter", "measured:ina219", "Latency against"),
        *("Throughput by batch", "Cold start", "The whole task", "Memory over time", "6.6.51+rpt-rpi-v8", "ab12" * 16),
    ):
        assert words in found.text
    assert any(one.startswith("aria-label=int8-lite on litert, 1 thread: half of all") for one in found.values)


def test_the_page_escapes_what_rows_hold() -> None:
    row = sample_row()

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [poison(inner) for inner in value]
        return HOSTILE if isinstance(value, str) else value

    rows = [poison(row), poison(with_sustained(with_energy(copy.deepcopy(row)), 50))]
    found = page(rows, HOSTILE)
    assert '<script>alert("1")</script>' in found.text  # as words
    assert not any(mark in found.text for mark in "\x1b\u202e\x00\ud800")
    assert "\x1b" not in as_table(rows) and len(as_csv(rows).splitlines()) == 3


def test_the_page_copes_with_one_row_with_many_and_with_none() -> None:
    assert "No rows" in page([]).text
    assert "Fastest is" not in page([sample_row()]).text
    many = sample_rows(threads=tuple(range(1, 13)))
    assert len(many) == 60
    found = page(many)
    assert "the other 46 rows" in found.text
    assert len(as_html(many, "60 rows")) < 700_000


def test_a_long_sustained_run_is_thinned_and_its_throttling_shaded() -> None:
    made = as_html([with_sustained(sample_row(), 20_000)], "Sustained")
    assert len(made) < 150_000
    assert 2 < made.count('class="held"') < 900 and "not valid" in Page(made).text


def test_different_models_are_not_compared() -> None:
    rows = sample_rows()
    rows[4]["subject"]["bundle"] = "resnet 2.0.0"
    text = page(rows).text
    assert "Fastest is int8 on litert, 1 thread" in text and "Fastest is int8-lite" not in text


def test_figures_that_cannot_be_are_refused() -> None:
    broken = sample_row()
    broken["latency_ms"]["p50"] = float("nan")
    for form in (as_table, as_markdown, as_csv, lambda rows: as_html(rows, "t")):
        with pytest.raises(EdgeError, match="row 1: latency_ms.p50: found nan"):
            form([broken])


# Any part of a row may be null, any list empty, any figure far from the usual.
def _holes(value: Any) -> st.SearchStrategy[Any]:
    if isinstance(value, dict):
        whole = st.fixed_dictionaries({key: _holes(inner) for key, inner in value.items()})
        return st.one_of(whole, whole, st.none())
    if isinstance(value, list):
        pair = len(value) == 2 and all(isinstance(one, float) for one in value)
        return st.sampled_from([value, None] if pair else [value, value[:1], [], None])
    if isinstance(value, bool):
        return st.sampled_from([True, False, None])
    if isinstance(value, int | float):
        return st.sampled_from([value, None, 0, 0.0, -1.0, 1e-12, 1e17, 10**18])
    return st.sampled_from([value, None, "", "x" * 5000, HOSTILE]) if value else st.none()


def _row() -> st.SearchStrategy[Any]:
    row = with_sustained(with_energy(sample_row()), 5)
    row["ratios"] = [{"to": "another", "ratio": 0.5, "interval": [0.4, 0.6], "pairs": 25}]
    fields = {key: _holes(value) for key, value in row.items() if key not in ("schema", "label")}
    return st.fixed_dictionaries({"schema": st.just(1), "label": st.sampled_from(["a", "b", HOSTILE]), **fields})


@settings(max_examples=40, deadline=None)
@given(st.lists(_row(), max_size=3))
def test_every_form_shows_rows_with_nulls_anywhere(rows: list[Any]) -> None:
    page(rows)
    assert len(as_csv(rows).splitlines()) == 1 + len(rows)
    as_markdown(rows)
    as_table(rows)


# ---------------------------------------------------------------- plots


@given(st.lists(st.floats(-1e18, 1e18), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_an_axis_holds_its_values_and_has_few_round_ticks(values: list[float], zero: bool, binary: bool) -> None:
    made = axis(values, str, zero=zero, binary=binary)
    assert all(0 <= made.place(value) <= 100 for value in values)
    ticks = made.ticks()
    assert len(ticks) <= 16 and ticks == sorted(ticks)


def test_thinning_keeps_spikes_and_the_front_keeps_equals() -> None:
    points = [(float(place), 1.0) for place in range(5000)]
    points[3210] = (3210.0, 99.0)
    kept = thin(points)
    assert len(kept) <= 400 and (3210.0, 99.0) in kept and kept == sorted(kept)
    assert front([(1, 3), (2, 2), (2, 2), (3, 3), (3, 1)]) == [True, True, True, False, True]


def test_figures_have_three_digits_and_spans_tell_their_ends_apart() -> None:
    assert [figure(value) for value in (0.34, 14, 1234.5, 99.96, 0.0, 2e-6)] == [
        "0.340",
        "14",
        "1,234",
        "100",
        "0",
        "2e-06",
    ]
    assert span([0.4201, 0.4232]) == "0.420 to 0.423"
    assert span([4.1001, 4.1009]) == "4.1001 to 4.1009"
    assert span([1234.0, 5678.0]) == "1,234 to 5,678" and span([0.0, 0.0]) == "0 to 0" and span(None) == ""
