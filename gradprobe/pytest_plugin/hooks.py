"""The plugin once something asks for it: records what is to be watched, and tells it on pytest's reports."""

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
from gradprobe.pytest_plugin.options import PluginOptions
from gradprobe.pytest_plugin.results import MODE_NAMES, ModeLeak, PhaseReport, RunResults
from gradprobe.recorder import Recorder
from gradprobe.recording.contents import Contents
from gradprobe.result import Recording

REPORT_ATTRIBUTE = "gradprobe"
"""What the plain values are called on a report of pytest's."""


class RunPlugin:
    """Watches the tests of one process; in the process that controls the run it also sums up."""

    def __init__(self, config: pytest.Config, settings: PluginOptions, left: Sequence[ModeLeak] = ()) -> None:
        """``left`` is what the first conftests left changed."""
        self.settings = settings
        self.results = RunResults()
        self.results.leaks += [("conftest.py", one) for one in left]
        if settings.fail_on_leak and left:
            raise pytest.UsageError(f"gradprobe: {left[0]}")
        self.told = PhaseReport()
        self.compared: list[dict[str, str]] = []
        """What the test that runs compared."""
        self._config = config
        self._fixtures = leaks.FixtureModes()
        self._recorder: Recorder | None = None
        self._contents: Contents | None = None
        self._is_worker = hasattr(config, "workerinput")
        self._has_workers = bool(getattr(config.option, "numprocesses", None)) or self._is_worker
        try:
            self._silenced = load_suppression(config.rootpath)
        except GradprobeError as error:
            raise pytest.UsageError(f"gradprobe: {error}") from None
        self._before, self.results.notes = baselines.load_baseline(config, settings, has_workers=self._has_workers)

    # What is asked of a test.

    def budget(self, item: pytest.Item) -> budgets.Budget:
        return budgets.read_budget(item) or budgets.Budget()

    def level(self, item: pytest.Item) -> str | None:
        """How a test is watched; None where nothing asks for it."""
        uses = {"gradprobe", "grad_compare"} & set(getattr(item, "fixturenames", ()))
        needed = self.budget(item).needed_level
        if needed is None and (
            uses or self.settings.records_every_test or item.get_closest_marker("gradprobe") is not None
        ):
            limits = {limit.metric for limit in self.settings.compare_fail}
            needed = "ops" if limits & {"saved_bytes", "version_bumps"} else "graph"
            needed = self.settings.level or needed
        return needed if _switch.is_enabled() else None

    def recording(self) -> Recording:
        """The recording of the test that runs, as it stands whenever it is looked at."""
        return Recording(_RunningTest(self))

    def read_contents(self) -> list[Contents]:
        """Return what the body of the current test has done so far; what no body did, before and after it."""
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
        self.told, self._contents = PhaseReport(), None
        result = yield
        try:
            budgets.read_budget(item)
        except pytest.UsageError as error:
            pytest.fail(str(error), pytrace=False)
        self._fail_on_leaks()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        level = self.level(item)
        if level is None:
            return (yield)
        self.told = PhaseReport()
        before, begun, passed = leaks.current_modes(), time.perf_counter_ns(), False
        self._recorder = recorder = Recorder(level=level)
        recorder.start()
        try:
            result = yield
            passed = True
        finally:
            took = time.perf_counter_ns() - begun
            recording, self._recorder = recorder.stop(), None
            self._contents = recording._tables.contents[0]
            try:
                self._examine(item, recording, level, before, took, passed)
            except Exception as error:
                # An error of ours fails no test, but for one that has a budget: it would pass without having been judged.
                if self.budget(item).needed_level is not None:
                    raise
                self.told.notes.append(f"{item.nodeid} could not be examined: {type(error).__name__}: {error}")
        self._fail_on_leaks()
        if self.told.broken:
            pytest.fail("\n".join(self.told.broken), pytrace=False)
        return result

    def _examine(
        self, item: pytest.Item, recording: Recording, level: str, before: leaks.Modes, took: int, passed: bool
    ) -> None:
        tables = recording._tables
        found = leaks.find_leak("test", item.name, before, tables) if self.settings.records_every_test else None
        if found is not None:
            self.told.leaks.append(found)
        if self.settings.records_every_test:
            found_by_rules = self._silenced.split(find_all(tables))[0]
            self.told.findings += [one for one in found_by_rules if one.severity != NOTE]
        outcome = budgets.measure_test(tables, item.nodeid, level, took)
        broken = [*budgets.find_exceeded(self.budget(item), outcome, tables, MODE_NAMES[before])]
        known = self._before.get(item.nodeid)
        if known is not None:
            broken += budgets.find_regressions(self.settings.compare_fail, outcome, known)
        # A test that fails by itself says so itself.
        self.told.broken += broken if passed else []
        self.told.comparisons, self.compared = list(self.compared), []
        # What a comparison ran is no cost of the test.
        if not self.told.comparisons:
            self.told.outcome = replace(outcome, places=outcome.places[:3], passed=passed and not broken)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.told = PhaseReport()
        result = yield
        self._fail_on_leaks()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, Any]:
        report = yield
        plain = self.told.plain()
        if plain is not None:
            setattr(report, REPORT_ATTRIBUTE, plain)
        return report

    # Fixtures and imports.

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        before = leaks.current_modes()
        result = yield
        if self.settings.records_every_test:
            self._note(self._fixtures.on_setup(fixturedef, before))
        return result

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        if self.settings.records_every_test:
            self._note(self._fixtures.on_finalize(fixturedef))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, Any, Any]:
        if not self.settings.records_every_test or not isinstance(collector, pytest.Module | pytest.Package):
            return (yield)
        before = leaks.current_modes()
        with Recorder(level="modes") as recording:
            report = yield
        found = leaks.find_leak("collection", collector.nodeid, before, recording._tables)
        if found is not None:
            told = PhaseReport(leaks=[found])
            setattr(report, REPORT_ATTRIBUTE, told.plain())
            if self.settings.fail_on_leak and report.passed:
                report.outcome, report.longrepr = "failed", f"gradprobe: {found}"
        return report

    def _note(self, found: ModeLeak | None) -> None:
        if found is not None:
            self.told.leaks.append(found)

    def _fail_on_leaks(self) -> None:
        if self.settings.fail_on_leak and self.told.leaks:
            pytest.fail("\n".join(f"gradprobe: {one}" for one in self.told.leaks), pytrace=False)

    # The end, in the process that controls the run.

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        plain = getattr(report, REPORT_ATTRIBUTE, None)
        # What pytest-rerunfailures runs again counts by its last run.
        if plain is not None and str(report.outcome) != "rerun":
            self.results.add(report.nodeid, plain)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        plain = getattr(report, REPORT_ATTRIBUTE, None)
        if plain is not None:
            self.results.add(report.nodeid, plain)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._is_worker:
            return
        self.results.notes += list(summary.write_reports(self.results, self.settings, self._config, self._before))
        if self.settings.save is not None:
            try:
                path = baselines.save_baseline(self.results, self.settings, self._config)
                self.results.notes.append(f"saved the baseline {path}")
            except GradprobeError as error:
                self.results.notes.append(str(error))
        summary.show(terminalreporter, self.results, self.settings, self._before)


class _RunningTest:
    """Source of the recording of the test that is running."""

    is_final = False

    def __init__(self, plugin: RunPlugin) -> None:
        self._plugin = plugin

    def read(self) -> list[Contents]:
        return self._plugin.read_contents()
