"""Tables of a recording; the modules of their columns define name, dtype, unit, level and meaning of each once.

The DataFrames, ``docs/columns.md`` and the rows of the JSON schemas are built from these definitions, so that they cannot
differ. Names and units stay as they are; columns may be added.
"""

from __future__ import annotations

from gradprobe.tables.call_columns import CALLS
from gradprobe.tables.finding_columns import FINDINGS
from gradprobe.tables.ledger_columns import CUSTODY, FLOW, GRAPH_MEMORY, GRAPHS, MODULES, PARAMETERS
from gradprobe.tables.mode_columns import MODES, TRANSITIONS
from gradprobe.tables.operator_columns import BIRTHS, OPS
from gradprobe.tables.phase_columns import LIFECYCLE, PHASES
from gradprobe.tables.region_columns import REGIONS, SITES

RECORDING_TABLES = (
    TRANSITIONS,
    REGIONS,
    SITES,
    MODES,
    PHASES,
    OPS,
    BIRTHS,
    LIFECYCLE,
    CALLS,
    FLOW,
    PARAMETERS,
    MODULES,
    GRAPHS,
    GRAPH_MEMORY,
    CUSTODY,
    FINDINGS,
)
"""Tables of a recording, in the order of the JSON report."""
