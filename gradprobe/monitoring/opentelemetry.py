"""Export of a monitor's counts as OpenTelemetry metrics, with its semantic attribute names for code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gradprobe._version import __version__
from gradprobe.errors import GradprobeError

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

Snapshot = Callable[[], Mapping[str, Any]]

_SITES = (
    ("gradprobe.blocks", "count", "{block}", "Grad-mode blocks and plain calls", 1),
    ("gradprobe.blocks.redundant", "redundant", "{block}", "Blocks that set the mode that was active already", 1),
    ("gradprobe.blocks.errors", "errors", "{block}", "Blocks exited by an exception", 1),
    ("gradprobe.blocks.time", "total_ns", "s", "Time between enter and exit", 1e-9),
    ("gradprobe.blocks.nodes", "nodes", "{node}", "Autograd nodes constructed between enter and exit", 1),
)
_PATHS = (
    ("gradprobe.inference.calls", "calls", "{call}", "Calls of an inference path", 1),
    ("gradprobe.inference.graphs", "graphs", "{call}", "Calls that built an autograd graph", 1),
    ("gradprobe.inference.errors", "errors", "{call}", "Calls that raised an exception", 1),
    ("gradprobe.inference.time", "total_ns", "s", "Time in calls", 1e-9),
    ("gradprobe.inference.nodes", "nodes", "{node}", "Autograd nodes constructed in calls with grad enabled", 1),
)
_NODES = ("graphs", "nodes")


def register_instruments(snapshot: Snapshot, provider: MeterProvider | None, *, counts_nodes: bool) -> None:
    """Register observable counters since the monitor's start, which call ``snapshot`` at each collection."""
    try:
        from opentelemetry import metrics
    except ModuleNotFoundError:
        raise GradprobeError("cannot export: no opentelemetry-api; run: pip install 'gradprobe[otel]'") from None
    meter = metrics.get_meter("gradprobe", __version__, meter_provider=provider)
    for table, rows in (("sites", _SITES), ("inference_paths", _PATHS)):
        for name, field, unit, description, scale in rows:
            if counts_nodes or field not in _NODES:
                observe = _make_observer(snapshot, table, field, scale)
                meter.create_observable_counter(name, [observe], unit=unit, description=description)


def _make_observer(
    snapshot: Snapshot, table: str, field: str, scale: float
) -> Callable[[CallbackOptions], Iterator[Observation]]:
    from opentelemetry.metrics import Observation

    def observe(_: CallbackOptions) -> Iterator[Observation]:
        for row in snapshot()[table]:
            yield Observation(row[field] * scale, _make_attributes(row))

    return observe


def _make_attributes(row: Mapping[str, Any]) -> dict[str, str | int]:
    named = {
        "gradprobe.manager": row.get("manager"),
        "gradprobe.form": row.get("form"),
        "code.file.path": row["file"],
        "code.line.number": row["line"],
        "code.function.name": row["function"],
    }
    return {key: value for key, value in named.items() if value is not None}
