"""The plugin object of one run: it records tests and attaches the results to pytest's reports."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gradprobe import _switch
from gradprobe.analysis.findings import find_all
from gradprobe.analysis.findings.catalogue import NOTE
from gradprobe.analysis.findings.suppression import load_suppression
from gradprobe.errors import GradprobeError
from gradprobe.pytest_plugin import baselines, budgets, leaks, summary
from gradprobe.pytest_plugin.global_state import StateWatch
from gradprobe.pytest_plugin.options import MODES, PluginOptions
from gradprobe.pytest_plugin.results import MODE_NAMES, MeasuredTest, ModeLeak, PhaseReport, RunResults
from gradprobe.recorder import Recorder
from gradprobe.recording.contents import Contents
from gradprobe.report.formats.findings_text import format_concisely
from gradprobe.result import Recording

_PREFIX = "gradprobe_"
"""Beginning of the names of a test's properties."""
REPORT_ATTRIBUTE = "gradprobe"
"""Attribute of pytest's reports that holds the plain values."""


class RunPlugin:
    """Records the tests of one process; in the process that controls the run it also summarizes them."""

    def __init__(self, config: pytest.Config, options: PluginOptions, left: Sequence[ModeLeak] = ()) -> None:
        """Prepare a run; ``left`` has the modes that the first conftests left changed."""
        self.options = options
        self.results = RunResults()
        self.results.leaks += [("conftest.py", one) for one in left]
        if options.fail_on_leak and left:
            raise pytest.UsageError(f"gradprobe: {left[0]}")
        self.phase = PhaseReport()
        self.compared: list[dict[str, str]] = []
        """Comparisons of the current test."""
        self._config = config
        self._fixtures = leaks.FixtureModes()
        self._checks_modes = options.records_every_test and MODES in options.leaks
        self._state = StateWatch(options.leaks if options.records_every_test else ())
        self._recorder: Recorder | None = None
        self._contents: Contents | None = None
        self._is_worker = hasattr(config, "workerinput")
        self._has_workers = bool(getattr(config.option, "numprocesses", None)) or self._is_worker
        try:
            self._suppression = load_suppression(config.rootpath)
        except GradprobeError as error:
            raise pytest.UsageError(f"gradprobe: {error}") from None
        self._before, self.results.notes = baselines.load_baseline(config, options, has_workers=self._has_workers)

    # Requirements of a test.

    def budget(self, item: pytest.Item) -> budgets.Budget:
        """Return the budget of a test, an empty one if it has no marker."""
        return budgets.read_budget(item) or budgets.Budget()

    def level(self, item: pytest.Item) -> str | None:
        """Return the level at which to record a test; None if it is not to be recorded."""
        uses = {"gradprobe", "grad_compare"} & set(getattr(item, "fixturenames", ()))
        needed = self.budget(item).needed_level
        if needed is None and (
            uses or self.options.records_every_test or item.get_closest_marker("gradprobe") is not None
        ):
            limits = {limit.metric for limit in self.options.compare_fail}
            needed = "ops" if limits & {"saved_bytes", "version_bumps"} else "graph"
            needed = self.options.level or needed
        return needed if _switch.is_enabled() else None

    def recording(self) -> Recording:
        """Return the recording of the current test, which is read again at each access."""
        return Recording(_RunningTest(self))

    def read_contents(self) -> list[Contents]:
        """Return the contents recorded so far in the body of the current test, empty ones before it."""
        recorder = self._recorder
        if recorder is not None and recorder.recording is not None:
            return recorder.recording._tables.contents
        if self._contents is None:
            empty = Recorder()
            empty.start()
            self._contents = empty.stop()._tables.contents[0]
        return [self._contents]

    # The phases of a test.

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Begin the report of a test, and fail it if its marker is invalid or a fixture leaked a mode."""
        self.phase, self._contents = PhaseReport(), None
        self._state.begin_test()
        # A test that is repeated begins without the properties of its last run.
        item.user_properties[:] = [pair for pair in item.user_properties if not pair[0].startswith(_PREFIX)]
        result = yield
        try:
            budgets.read_budget(item)
        except pytest.UsageError as error:
            pytest.fail(str(error), pytrace=False)
        self._fail_on_leaks()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Record the body of a test, and fail it if it exceeds its budget."""
        level = self.level(item)
        if level is None:
            return (yield)
        self.phase = PhaseReport()
        before, state = leaks.current_modes(), self._state.read()
        begun, passed = time.perf_counter_ns(), False
        self._recorder = recorder = Recorder(level=level)
        recorder.start()
        try:
            result = yield
            passed = True
        finally:
            took = time.perf_counter_ns() - begun
            recording, self._recorder = recorder.stop(), None
            self._contents = recording._tables.contents[0]
            self._state.end_body(state)
            try:
                self._examine(item, recording, level, before, took, passed)
            except Exception as error:
                # An internal error fails no test, except one with a budget, which would pass without having been checked.
                if self.budget(item).needed_level is not None:
                    raise
                self.phase.notes.append(f"cannot examine {item.nodeid}: {type(error).__name__}: {error}")
        self._fail_on_leaks()
        if self.phase.broken:
            pytest.fail("\n".join(self.phase.broken), pytrace=False)
        return result

    def _examine(
        self, item: pytest.Item, recording: Recording, level: str, before: leaks.Modes, took: int, passed: bool
    ) -> None:
        tables = recording._tables
        found = leaks.find_leak("test", item.name, before, tables) if self._checks_modes else None
        if found is not None:
            self.phase.leaks.append(found)
        if self.options.records_every_test:
            findings = self._suppression.split(find_all(tables))[0]
            self.phase.findings += [one for one in findings if one.severity != NOTE]
        outcome = budgets.measure_test(tables, item.nodeid, level, took)
        broken = [*budgets.find_exceeded(self.budget(item), outcome, tables, MODE_NAMES[before])]
        known = self._before.get(item.nodeid)
        if known is not None:
            broken += budgets.find_regressions(self.options.compare_fail, outcome, known)
        self._add_properties(item, outcome)
        # A test that failed has reported its own reason.
        self.phase.broken += broken if passed else []
        self.phase.comparisons, self.compared = list(self.compared), []
        # The calls of a comparison are not a cost of the test.
        if not self.phase.comparisons:
            self.phase.outcome = replace(outcome, places=outcome.places[:3], passed=passed and not broken)

    def _add_properties(self, item: pytest.Item, outcome: MeasuredTest) -> None:
        """Add what was found to the properties of a test, which JUnit files show."""
        counts = {name: getattr(outcome, name) for name in ("nodes", "saved_bytes", "version_bumps")}
        item.user_properties += [(_PREFIX + name, count) for name, count in counts.items() if count is not None]
        found = [("finding", format_concisely(one)) for one in self.phase.findings]
        found += [("leak", str(one)) for one in self.phase.leaks]
        item.user_properties += [(_PREFIX + name, text) for name, text in found]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Collect the leaks of fixtures that are finalized."""
        self.phase = PhaseReport()
        try:
            result = yield
        finally:
            self.phase.leaks += self._state.end_test(item)
            item.user_properties += [(f"{_PREFIX}leak", str(leak)) for leak in self.phase.leaks]
        self._fail_on_leaks()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Attach the results of a phase to pytest's report, which may travel to another process."""
        report = yield
        plain = self.phase.as_plain()
        if plain is not None:
            setattr(report, REPORT_ATTRIBUTE, plain)
        return report

    # Fixtures and imports.

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        """Detect a fixture that changes the modes."""
        before, state = leaks.current_modes(), self._state.read()
        result = yield
        self._state.on_setup(fixturedef, state)
        if self._checks_modes:
            self._add_leak(self._fixtures.on_setup(fixturedef, before))
        return result

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        """Detect a fixture that did not restore the modes."""
        self.phase.leaks += self._state.on_finalize(fixturedef)
        if self._checks_modes:
            self._add_leak(self._fixtures.on_finalize(fixturedef))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, Any, Any]:
        """Record the import of a test module, and detect the modes that it leaves changed."""
        if not self.options.records_every_test or not isinstance(collector, pytest.Module | pytest.Package):
            return (yield)
        before, state = leaks.current_modes(), self._state.read()
        with Recorder(level="modes") as recording:
            report = yield
        left = self._state.end_import(collector.nodeid, state)
        mode = (
            leaks.find_leak("collection", collector.nodeid, before, recording._tables) if self._checks_modes else None
        )
        found = [mode, *left] if mode is not None else left
        if found:
            setattr(report, REPORT_ATTRIBUTE, PhaseReport(leaks=found).as_plain())
            if self.options.fail_on_leak and report.passed:
                report.outcome, report.longrepr = "failed", "\n".join(f"gradprobe: {one}" for one in found)
        return report

    def _add_leak(self, found: ModeLeak | None) -> None:
        if found is not None:
            self.phase.leaks.append(found)

    def _fail_on_leaks(self) -> None:
        if self.options.fail_on_leak and self.phase.leaks:
            pytest.fail("\n".join(f"gradprobe: {one}" for one in self.phase.leaks), pytrace=False)

    # The end, in the process that controls the run.

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the results of a phase."""
        plain = getattr(report, REPORT_ATTRIBUTE, None)
        # A test that pytest-rerunfailures repeats counts by its last run.
        if plain is not None and str(report.outcome) != "rerun":
            self.results.add(report.nodeid, plain)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Collect the results of an import."""
        plain = getattr(report, REPORT_ATTRIBUTE, None)
        if plain is not None:
            self.results.add(report.nodeid, plain)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the reports and the baseline, and print the summary."""
        if self._is_worker:
            return
        self.results.notes += list(summary.write_reports(self.results, self.options, self._config, self._before))
        if self.options.save is not None:
            try:
                path = baselines.save_baseline(self.results, self.options, self._config)
                self.results.notes.append(f"saved the baseline {path}")
            except GradprobeError as error:
                self.results.notes.append(str(error))
        summary.print_summary(terminalreporter, self.results, self.options, self._before)


class _RunningTest:
    """Source of the recording of the test that is running."""

    is_final = False

    def __init__(self, plugin: RunPlugin) -> None:
        self._plugin = plugin

    def read(self) -> list[Contents]:
        """Return the contents recorded so far."""
        return self._plugin.read_contents()
