"""The tables of a recording, and where its contents come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gradprobe.recording.contents import Contents

if TYPE_CHECKING:
    import pandas as pd

    from gradprobe.tables.recording_tables import RecordingTables


class RecordingSource(Protocol):
    """Origin of the contents of a ``Recording``: files, or a recorder that is still running."""

    @property
    def is_final(self) -> bool:
        """True once ``read`` always returns the same contents, so that the tables may be kept."""

    def read(self) -> Sequence[Contents]:
        """Return the contents as they are now, one per process."""


class RecordedTables:
    """The tables of a recording, each computed at its first use."""

    def __init__(self, source: RecordingSource, *, include_torch: bool | None = None) -> None:
        self._source = source
        self._include_torch = include_torch
        self._final_tables: RecordingTables | None = None

    @property
    def _tables(self) -> RecordingTables:
        """All tables, as the recording is now."""
        from gradprobe.analysis.analyzed_tables import AnalyzedTables

        if self._final_tables is not None:
            return self._final_tables
        # Before reading: what ends meanwhile may not be in the contents that were read.
        is_final = self._source.is_final
        tables = AnalyzedTables(self._source.read(), include_torch=self._include_torch)
        if is_final:
            self._final_tables = tables
        return tables

    @property
    def transitions(self) -> pd.DataFrame:
        """Table of mode transitions: one row per enter, exit and set, in order; all levels.

        Columns: ``order`` (int), ``time_ns`` (int, ns since the recording began), ``process``, ``rank``, ``thread``,
        ``task``, ``manager`` (``no_grad``, ``enable_grad``, ``set_grad_enabled``, ``inference_mode``, or ``unknown`` for
        a change that no context manager announced), ``form`` (``with``, ``decorator``, ``generator``, ``call``), ``event``
        (``enter``, ``exit``, ``set``), ``grad_before``, ``inference_before``, ``grad_after``, ``inference_after``,
        ``redundant`` (bool), ``depth`` (int), ``region``, ``file``, ``line``, ``function``.

        Returns:
            pandas.DataFrame: the table, empty if no mode changed.

        Example::

            recording.transitions.query("redundant and event == 'enter'")
        """
        return self._tables.transitions

    @property
    def regions(self) -> pd.DataFrame:
        """Table of regions: one row per block, and per plain call with what followed it; all levels.

        ``region`` is the row's number and ``parent`` that of the enclosing region. ``duration_ns`` is the whole time,
        ``self_ns`` the part outside of nested regions. From level ``"graph"`` on, ``nodes`` and ``self_nodes`` count
        autograd nodes. At level ``"ops"``, ``saved_bytes``, ``version_bumps``, ``counters_created``, ``tracked_views`` and
        ``inference_tensors`` are counted too. ``device_ns`` is time on the accelerator. ``error`` names the exception
        that left the block, ``closed`` is False for a block that was never left.

        Returns:
            pandas.DataFrame: the table in the order of entry. The page ``docs/columns.md`` describes every column.

        Example::

            regions = recording.regions
            regions[(regions["manager"] == "no_grad") & (regions["nodes"] > 0)]
        """
        return self._tables.regions

    @property
    def sites(self) -> pd.DataFrame:
        """Table of sites: one row per context manager and source line, the slowest first; all levels.

        Columns: ``file``, ``line``, ``function``, ``manager``, ``form``, ``count`` (regions), ``total_ns``, ``self_ns``,
        ``median_ns``, and the sums over its regions of the columns that ``regions`` has, at the levels at which it has
        them.

        Returns:
            pandas.DataFrame: the table, sorted by ``total_ns``.

        Example::

            recording.sites[["file", "line", "manager", "count", "total_ns"]].head()
        """
        return self._tables.sites

    @property
    def ops(self) -> pd.DataFrame:
        """Table of operators: one row per region, operator, line and module; level ``"ops"`` only.

        Columns: ``region``, ``op``, ``file``, ``line``, ``function``, ``module``, ``count`` (calls), and sums over these
        calls: ``nodes`` (autograd nodes), ``saved_bytes`` (of unique storages saved for backward), ``version_bumps``,
        ``counters_created``, ``tracked_views``, ``inference_outputs``, ``normal_outputs`` and further ones.

        Returns:
            pandas.DataFrame: the table, empty below level ``"ops"``.

        Example::

            recording.ops.groupby("op")["saved_bytes"].sum().nlargest(10)
        """
        return self._tables.ops

    @property
    def modes(self) -> pd.DataFrame:
        """Table of how each mode came about: one row per line and way.

        Columns: ``origin`` (``with``, ``decorator``, ``generator``, ``call``, or ``thread`` and ``process`` for what began
        in another mode than the thread that started it had), ``manager``, ``file``, ``line``, ``owner`` (``program``,
        ``library``, ``torch``), the modes before and from then on, and ``outlived``: whether the mode was found in force
        after its function was left, with the line that lost a gradient by it.

        Returns:
            pandas.DataFrame: the table, empty if no mode was changed.

        Example::

            recording.modes.query("outlived")[["file", "line", "lost_line"]]
        """
        return self._tables.modes

    @property
    def phases(self) -> pd.DataFrame:
        """Table of phases: one row per run of a phase of the program; all levels.

        Returns:
            pandas.DataFrame: the table, in the order in which the phases began.

        Example::

            recording.phases.groupby("phase")["duration_ns"].sum()
        """
        return self._tables.phases

    @property
    def births(self) -> pd.DataFrame:
        """Table of creation sites of inference tensors that escaped inference mode; level ``"ops"`` only.

        One row per operator, line and region that created tensors which were still referenced after ``inference_mode`` was
        left: such a tensor cannot be saved for backward.

        Returns:
            pandas.DataFrame: the table, empty below level ``"ops"``.

        Example::

            recording.births[["op", "file", "line", "count"]]
        """
        return self._tables.births

    @property
    def lifecycle(self) -> pd.DataFrame:
        """Table of inference tensors that the program keeps after their block; level ``"ops"`` only.

        One row per event: creation, later uses that were seen or refused, and those that the source foretells.

        Returns:
            pandas.DataFrame: the table, empty below level ``"ops"``.

        Example::

            recording.lifecycle.query("status == 'foretold'")[["holder", "line", "event", "event_line"]]
        """
        return self._tables.lifecycle

    @property
    def findings(self) -> pd.DataFrame:
        """Table of findings: one row per problem and place, the most harmful first.

        Columns: ``rule`` (such as ``GP101``), ``severity`` (``error``, ``warning``, ``note``), ``message``, ``file``,
            ``line``,
        ``function``, ``count``, ``related`` (places with their roles) and ``fix``. Most rules need level ``"ops"``.

        Returns:
            pandas.DataFrame: the table, empty if no rule applies.

        Example::

            assert recording.findings.query("severity == 'error'").empty
        """
        return self._tables.findings

    @property
    def calls(self) -> pd.DataFrame:
        """Table of probed calls: one row per call of a function decorated with ``probe``.

        A generator or a coroutine has one row per resumption. From level ``"graph"`` on, the row has what the call did to
        its arguments and what graph its result keeps.

        Returns:
            pandas.DataFrame: the table, empty if no probed function was called.

        Example::

            evaluate.recording.calls["duration_ns"].describe()
        """
        return self._tables.calls

    @property
    def flow(self) -> pd.DataFrame:
        """Table of the flow of tensors: which line took what another line had made, and what became of gradient.

        One row per way and per ``passage``: ``carried`` if a node was constructed, ``without_grad`` if the tensor does not
        require grad, or what cut the graph (``no_grad``, ``inference_mode``, ``detach``, ``data``, ``not_differentiable``,
        ``written``). A way begins at an operator (``source_op``) or at a leaf (``leaf``), and ends at an operator, a
        ``backward`` or an ``optimizer.step`` (``target_op``).

        Returns:
            pandas.DataFrame: the table, the ways taken most often first; empty below level ``"ops"``.

        Example::

            recording.flow.query("passage == 'detach'")[["source_line", "target_line", "count"]]
        """
        return self._tables.flow

    @property
    def parameters(self) -> pd.DataFrame:
        """Table of leaves: parameters, and other tensors that require grad and that no operator computed.

        Columns: ``name``, ``shape``, ``optimizer``, ``file`` and ``line`` where it was created, ``uses`` and
        ``uses_with_grad``, ``backward_passes`` that reached it, ``steps_with_grad`` and ``steps_without_grad`` of its
        optimizer, ``writes`` and further ones.

        Returns:
            pandas.DataFrame: the table, those with names first; empty below level ``"ops"``.

        Example::

            recording.parameters.query("steps_without_grad > 0 and steps_with_grad == 0")["name"]
        """
        return self._tables.parameters

    @property
    def modules(self) -> pd.DataFrame:
        """Table of modules as a tree: what ran in each, by itself and with the modules in it.

        Columns: ``module`` (dotted path), ``name``, ``parent``, ``depth``, ``root_class``; ``count`` of operators,
        ``nodes`` and ``saved_bytes``, and each with ``self_`` before it for the module's own code; ``parameters`` that
        required grad and ``reached_parameters`` that a backward pass reached. An outermost module has the name of its
        class, or of its variable if there were several of that class.

        Returns:
            pandas.DataFrame: the table, each module before those in it; empty below level ``"ops"``.

        Example::

            recording.modules.query("depth == 1").nlargest(5, "saved_bytes")
        """
        return self._tables.modules

    @property
    def graphs(self) -> pd.DataFrame:
        """Table of autograd graphs by path of calls: what was constructed, and what backward passes used of it.

        ``file``, ``line`` and ``function`` are those of the innermost line, ``path`` has all of them. ``nodes`` were
        constructed, ``reached_nodes`` of them a backward pass has gone through, ``unused_nodes`` none has.

        Returns:
            pandas.DataFrame: the table, the most nodes first; empty below level ``"ops"``.

        Example::

            recording.graphs.groupby(["file", "line"])["unused_nodes"].sum().nlargest(5)
        """
        return self._tables.graphs

    @property
    def graph_memory(self) -> pd.DataFrame:
        """Table of the memory of autograd graphs over time, by the line whose results held them.

        Columns: ``time_ns``, ``moment`` (``backward`` as a call of ``backward`` begins, else ``between``), ``iteration``
        (calls of ``backward`` so far), ``phase``, ``file``, ``line``, ``function``, ``op``, ``tensors``, ``nodes`` and
        ``bytes`` saved for backward. The number of moments grows with the logarithm of the number of iterations.

        Returns:
            pandas.DataFrame: the table, by process and time; empty below level ``"ops"``.

        Example::

            memory = recording.graph_memory.query("moment == 'backward'")
            memory.pivot_table(index="iteration", columns="line", values="bytes", aggfunc="sum")
        """
        return self._tables.graph_memory

    @property
    def custody(self) -> pd.DataFrame:
        """Table of what keeps autograd graphs beyond their use: the holder, and what it keeps.

        Columns: ``holder`` (such as ``history[...]``), ``kind`` (``local``, ``global``, ``attribute``, ``closure``,
        ``cache``, ``traceback``, ``generator``, ``other``), the line that computed the tensors, ``tensors``, ``nodes``,
        ``bytes`` and ``iterations``. It is known when the recording has ended.

        Returns:
            pandas.DataFrame: the table, the most nodes first; empty below level ``"ops"``.

        Example::

            recording.custody[["holder", "nodes", "bytes"]]
        """
        return self._tables.custody

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and process that were recorded.

        Environment variables and command-line arguments are not recorded.

        Returns:
            dict: plain values under ``gradprobe``, ``torch``, ``python``, ``platform``, ``level``, ``process``, ``rank``
                and further
            keys. For several processes it has the values of the first one, and a list of all of them under ``processes``.

        Example::

            recording.environment["torch"]
        """
        environments = [process.environment for process in self._tables.processes]
        if len(environments) == 1:
            return environments[0]
        return {**environments[0], "processes": environments} if environments else {}
