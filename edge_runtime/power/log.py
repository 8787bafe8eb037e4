"""An external meter's CSV log, integrated after the run between two wall-clock moments.

Any table with a time and a power, or a voltage and a current. Columns are known by the first word of their name and
the unit in it: "Power(W)", "current_A", "Voltage [mV]"; "#time,current,voltage,power" (Joulescope), "timestamp ...
voltage_V current_A" separated by spaces (loggers for the FNB58), "Time (ms)" and "Current (uA)" without a voltage
(LPM01A, with the voltage stated). Times are ISO 8601 (local where they say no zone), seconds, ms, us or ns since 1970,
or relative, h:mm:ss or seconds, and then `log_offset_s` says when they began. The file is read as a stream: it may be
larger than the memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path

from edge_runtime.errors import MeterError, UsageError
from edge_runtime.power.meter import MeterSettings, PowerMeter, Reading, Sample, Sensor

ACCURACY = 0.01  # assumed: it is another's instrument
RELATIVE_S = 1e8  # a time below it is not of this century
HEADER_LINES = 50
BUCKETS = 20_000
_WORDS = {
    "time": ("time", "timestamp", "datetime", "date", "unixtime", "elapsed", "t", "ts", "seconds", "sec", "ms"),
    "power": ("power", "p", "watts", "watt", "w", "mw", "wavg"),
    "voltage": ("voltage", "volts", "volt", "v", "u", "vbus", "mv", "vavg"),
    "current": ("current", "amperes", "amps", "amp", "i", "ibus", "intensity", "a", "ma", "ua", "iavg"),
}
_SCALES = {
    "time": {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0},
    "power": {"w": 1.0, "mw": 1e-3, "uw": 1e-6, "µw": 1e-6, "kw": 1e3, "watts": 1.0},
    "voltage": {"v": 1.0, "mv": 1e-3, "uv": 1e-6},
    "current": {"a": 1.0, "ma": 1e-3, "ua": 1e-6, "µa": 1e-6, "na": 1e-9},
}


@dataclass(frozen=True)
class Layout:
    """Where the columns stand and what to multiply by; `date` is a second column that the time's stands beside."""

    separator: str | None
    time: int
    time_scale: float | None
    power: tuple[int, float] | None
    voltage: tuple[int, float] | None
    current: tuple[int, float] | None
    date: int | None = None


def split(line: str, separator: str | None) -> list[str]:
    return [part.strip().strip("\"'").strip() for part in line.strip().split(separator)]


def find_layout(line: str, volts: float | None = None) -> Layout | None:
    """The layout that a line of names gives; None where it is no such line."""
    separator = next((one for one in (";", "\t", ",") if one in line), None)
    found: dict[str, tuple[int, float]] = {}
    scaled: set[str] = set()
    date = None
    for number, name in enumerate(split(line.lstrip("\ufeff#% "), separator)):
        words = re.findall(r"[a-zµ]+", name.lower().replace("μ", "µ"))
        kind = next((kind for kind, known in _WORDS.items() if words and words[0] in known), None)
        if kind is None:
            continue
        if kind in found:
            if kind == "time" and words[0] == "time" and date is None:  # "Date,Time"
                date, found["time"] = found["time"][0], (number, 1.0)
            continue
        unit = next((one for one in reversed(words) if one in _SCALES[kind]), None)
        found[kind] = number, _SCALES[kind].get(unit or "", 1.0)
        scaled |= {kind} if unit else set()
    enough = "power" in found or ("current" in found and ("voltage" in found or volts))
    if "time" not in found or not enough:
        return None
    time, scale = found["time"]
    return Layout(
        separator,
        time,
        scale if "time" in scaled else None,
        found.get("power"),
        found.get("voltage"),
        found.get("current"),
        date,
    )


def number(text: str, separator: str | None) -> float:
    """A decimal figure; with a comma where commas do not separate. Raises ValueError."""
    if separator != "," and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", text, re.ASCII):
        raise ValueError(text)
    return float(text)


def seconds(text: str, scale: float | None, separator: str | None = ",") -> float:
    """A time in seconds: since 1970 or, below RELATIVE_S, since the log began. Raises ValueError."""
    if clock := re.fullmatch(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d{1,9})?)", text, re.ASCII):
        return 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3].replace(",", "."))
    try:
        value = number(text, separator)
    except ValueError:
        return datetime.fromisoformat(re.sub(r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})", r"\1-\2-\3", text)).timestamp()
    if scale is None:
        # of 2026: 1.8e9 s, 1.8e12 ms, 1.8e15 us, 1.8e18 ns
        scale = next((one for most, one in ((1e11, 1.0), (1e14, 1e-3), (1e17, 1e-6)) if abs(value) < most), 1e-9)
    return value * scale


class LogMeter:
    """A log file, looked into when the energy of a window is asked for; it may still be growing."""

    def __init__(self, path: Path, offset_s: float, volts: float | None) -> None:
        self._path, self._offset_s, self._volts = path, offset_s, volts
        self._resume = (float("inf"), 0)
        self._layout, self._first_byte = self._read_header()
        about = f"external meter's log {path.name}; 1 % assumed, its clock taken as this machine's"
        self.sensor = Sensor("log", about, self._usual_period(), ACCURACY)

    def read(self) -> Reading:
        raise MeterError("log: an external meter's log has no reading of now, only of windows that are over")

    def close(self) -> None:
        pass

    def _read_header(self) -> tuple[Layout, int]:
        try:
            with self._path.open("rb") as stream:
                for _ in range(HEADER_LINES):
                    layout = find_layout(stream.readline(65536).decode("utf-8", "replace"), self._volts)
                    if layout:
                        return layout, stream.tell()
        except OSError as error:
            raise MeterError(f"log: {self._path}: {error.strerror}, wanted a meter's CSV log") from error
        raise MeterError(
            f"log: {self._path}: found no line of names with a time and a power (or a voltage and a current) "
            f"in the first {HEADER_LINES} lines",
            hint="write a header such as: time,voltage,current (or state the voltage: --meter-volts 3.3V)",
        )

    def _lines(self, start_byte: int) -> Iterator[tuple[int, Sample]]:
        """Samples from a place in the file on, with the place where each begins. What is no sample is passed over; a
        file in which most is not is refused."""
        layout, good, bad = self._layout, 0, 0
        try:
            with self._path.open("rb") as stream:
                stream.seek(start_byte)
                place = start_byte
                while line := stream.readline(65536):
                    try:
                        sample = self._sample(split(line.decode("utf-8", "replace"), layout.separator))
                    except (ValueError, IndexError, OverflowError, OSError):
                        bad += bool(line.strip()) and line.endswith(b"\n")  # one without an end is being written
                    else:
                        good += 1
                        yield place, sample
                    if bad > 100 + good:
                        raise MeterError(f"log: {self._path}: {bad} lines are no readings, and {good} are")
                    place += len(line)
        except OSError as error:
            raise MeterError(f"log: {self._path}: {error.strerror}") from error

    def _sample(self, cells: list[str]) -> Sample:
        layout = self._layout
        text = cells[layout.time] if layout.date is None else f"{cells[layout.date]} {cells[layout.time]}"
        at_s = seconds(text, layout.time_scale, layout.separator) + self._offset_s

        def value(column: tuple[int, float] | None) -> float:
            return number(cells[column[0]], layout.separator) * column[1] if column else float(self._volts or 0)

        watts = value(layout.power) if layout.power else value(layout.voltage) * value(layout.current)
        if at_s < RELATIVE_S:
            raise MeterError(
                f"log: {self._path}: its times count from its own beginning ({text}): wanted to know when that was",
                hint="--meter-offset 2026-11-30T10:00:00",
            )
        return Sample(at_s, watts)

    def _usual_period(self) -> float:
        times = [sample.at_s for _, sample in islice(self._lines(self._first_byte), 1000)]
        if len(times) < 2:
            return 1.0  # it has just begun to be written
        steps = sorted(b - a for a, b in pairwise(times))
        return max(steps[len(steps) // 2], 1e-6)

    def samples(self, start_s: float, end_s: float) -> list[Sample]:
        """Readings from the one before `start_s` to the one after `end_s`; of very many, means over 1/20,000 of the
        window. Raises MeterError where the log does not reach over the window, or its times run backwards."""
        resume_s, place = self._resume
        first: float | None = None
        last: Sample | None = None
        found: list[Sample] = []
        bucket: list[Sample] = []
        width_s = (end_s - start_s) / BUCKETS
        for at, sample in self._lines(place if resume_s <= start_s else self._first_byte):
            first = sample.at_s if first is None else first
            if last and sample.at_s < last.at_s:
                back_s = last.at_s - sample.at_s
                raise MeterError(f"log: {self._path}: times run backwards by {back_s:.3g} s (at byte {at})")
            last = sample
            if sample.at_s <= start_s:
                found = [sample]
                self._resume = sample.at_s, at
                continue
            if bucket and sample.at_s - bucket[0].at_s > width_s:
                found.append(_mean(bucket))
                bucket = []
            bucket.append(sample)
            if sample.at_s >= end_s:
                break
        found += [_mean(bucket)] if bucket else []
        slack = max(2 * self.sensor.period_s, 0.02 * (end_s - start_s))
        if first is None or last is None or found[0].at_s > start_s + slack or last.at_s < end_s - slack:
            covers = f"{_clock(first)} to {_clock(last.at_s)}" if first is not None and last else "nothing"
            raise MeterError(
                f"log: {self._path}: covers {covers}, wanted {_clock(start_s)} to {_clock(end_s)}",
                hint="record for longer than the run; where the clocks differ, give --meter-offset",
            )
        return found


def _mean(samples: list[Sample]) -> Sample:
    count = len(samples)
    return Sample(sum(one.at_s for one in samples) / count, sum(one.value for one in samples) / count)


def _clock(at_s: float) -> str:
    try:
        return datetime.fromtimestamp(at_s).isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{at_s:g} s"


def parse_offset(text: str) -> float:
    """'-3.5' seconds to add to the log's times, or the ISO 8601 time at which a log with relative times began (local
    where it says no zone). Raises UsageError."""
    try:
        return number(text, ",")
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"meter offset: found {text!r}, wanted seconds, or a time: 2026-11-30T10:00:00") from error


def open_meter(settings: MeterSettings, root: Path) -> PowerMeter:
    """Raises UsageError without a file, MeterError where it is no log that can be understood."""
    if settings.log is None:
        raise UsageError("meter log: found no file, wanted the external meter's CSV: --meter-log FILE")
    if settings.log_volts is not None and not 0 < settings.log_volts <= 1000:
        raise UsageError(f"meter: found {settings.log_volts:g} V stated, wanted more than 0 and at most 1,000")
    return LogMeter(settings.log, settings.log_offset_s, settings.log_volts)
