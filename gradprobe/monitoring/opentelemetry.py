"""The counts of a monitor as OpenTelemetry metrics, under the attribute names of its semantic conventions for code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gradprobe._version import __version__
from gradprobe.errors import GradprobeError

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

Snapshot = Callable[[], Mapping[str, Any]]

_SITES = (
    ("gradprobe.blocks", "count", "{block}", "Blocks and calls of a manager", 1),
    ("gradprobe.blocks.redundant", "redundant", "{block}", "Those that found the mode they set in force", 1),
    ("gradprobe.blocks.errors", "errors", "{block}", "Those that were left by an exception", 1),
    ("gradprobe.blocks.time", "total_ns", "s", "Time between enter and exit", 1e-9),
    ("gradprobe.blocks.nodes", "nodes", "{node}", "Autograd nodes constructed between enter and exit", 1),
)
_PATHS = (
    ("gradprobe.inference.calls", "calls", "{call}", "Calls of an inference path", 1),
    ("gradprobe.inference.graphs", "graphs", "{call}", "Those that built a graph", 1),
    ("gradprobe.inference.errors", "errors", "{call}", "Those that raised", 1),
    ("gradprobe.inference.time", "total_ns", "s", "Time in them", 1e-9),
    ("gradprobe.inference.nodes", "nodes", "{node}", "Autograd nodes constructed in them with gradients on", 1),
)
_NODES = ("graphs", "nodes")


def register_instruments(snapshot: Snapshot, provider: MeterProvider | None, *, counts_nodes: bool) -> None:
    """Observable counters that read ``snapshot`` whenever a reader collects. All are sums since the monitor's start."""
    try:
        from opentelemetry import metrics
    except ModuleNotFoundError:
        raise GradprobeError("there is no opentelemetry-api; install it with: pip install 'gradprobe[otel]'") from None
    meter = metrics.get_meter("gradprobe", __version__, meter_provider=provider)
    for table, rows in (("sites", _SITES), ("inference_paths", _PATHS)):
        for name, field, unit, description, scale in rows:
            if counts_nodes or field not in _NODES:
                observe = _observer(snapshot, table, field, scale)
                meter.create_observable_counter(name, [observe], unit=unit, description=description)


def _observer(
    snapshot: Snapshot, table: str, field: str, scale: float
) -> Callable[[CallbackOptions], Iterator[Observation]]:
    from opentelemetry.metrics import Observation

    def observe(_: CallbackOptions) -> Iterator[Observation]:
        for row in snapshot()[table]:
            yield Observation(row[field] * scale, _attributes(row))

    return observe


def _attributes(row: Mapping[str, Any]) -> dict[str, str | int]:
    named = {
        "gradprobe.manager": row.get("manager"),
        "gradprobe.form": row.get("form"),
        "code.file.path": row["file"],
        "code.line.number": row["line"],
        "code.function.name": row["function"],
    }
    return {key: value for key, value in named.items() if value is not None}
