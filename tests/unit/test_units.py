"""Quantities: what is written can be read back, and a forgotten unit is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import UsageError
from edge_runtime.units import (
    format_bytes,
    format_mj,
    format_ms,
    parse_bytes,
    parse_celsius,
    parse_mj,
    parse_ms,
    parse_ohms,
    parse_volts,
    parse_watts,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0B", 0), ("512MB", 512 * 10**6), ("512MiB", 2**29), ("1.5 GiB", 3 * 2**29), (" 2kB ", 2000), ("1KiB", 1024)],
)
def test_bytes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


def test_time_and_energy() -> None:
    assert parse_ms("250ms") == 250
    assert parse_ms("1.5 s") == 1500
    assert parse_ms("2min") == 120_000
    assert parse_mj("12mJ") == 12
    assert parse_mj("3J") == 3000
    assert parse_mj("500uJ") == 0.5


def test_power_heat_and_what_a_meter_needs() -> None:
    assert parse_watts("500mW") == 0.5
    assert parse_celsius("70C") == 70
    assert parse_ohms("100mOhm") == pytest.approx(0.1)
    assert parse_volts("3.3V") == 3.3
    for parse in (parse_watts, parse_celsius, parse_ohms, parse_volts):
        with pytest.raises(UsageError, match="limit: found '70', wanted a number with one of the units"):
            parse("70", "limit")


@given(st.floats(0.001, 9e8))
def test_energy_round_trips_within_three_figures(mj: float) -> None:
    assert parse_mj(format_mj(mj)) == pytest.approx(mj, rel=0.0051)


@pytest.mark.parametrize(
    "text",
    ["512", 512, None, "", "MB", "512 mb", "-1MB", "1,5GB", "1e3MB", "1..5MB", "0x10MB", "nanMB", "1 MB MB", "٣MB"],
)
def test_a_size_that_is_none_is_named_and_shown(text: object) -> None:
    with pytest.raises(UsageError, match="budget.ram: found .*wanted a number with one of the units") as caught:
        parse_bytes(text, "budget.ram")
    assert repr(text) in str(caught.value)


@given(st.integers(0, 2**60), st.sampled_from(["B", "kB", "KiB"]))
def test_whole_numbers_are_exact(count: int, unit: str) -> None:
    if count < 2**43:  # up to here a float holds count times 1,024 exactly
        assert parse_bytes(f"{count}{unit}") == count * {"B": 1, "kB": 1000, "KiB": 1024}[unit]


@given(st.integers(0, 2**50))
def test_bytes_round_trip_within_three_figures(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.0051)


@given(st.floats(0.001, 999))
def test_milliseconds_round_trip_within_three_figures(ms: float) -> None:
    assert parse_ms(format_ms(ms)) == pytest.approx(ms, rel=0.0051)


@pytest.mark.parametrize("ms", [999.7, 1_234_567.0])
def test_long_times_can_be_read_back(ms: float) -> None:
    assert parse_ms(format_ms(ms)) == pytest.approx(ms, rel=0.0051)


def test_an_endless_number_is_refused() -> None:
    with pytest.raises(UsageError):
        parse_bytes("9" * 400 + "MB")
