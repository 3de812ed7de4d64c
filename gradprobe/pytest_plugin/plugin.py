"""The pytest plugin's entry: options, a marker, two fixtures. Nothing else is imported until something asks for it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from gradprobe.pytest_plugin import options as plugin_settings

if TYPE_CHECKING:
    from gradprobe.pytest_plugin.grad_compare import GradCompare
    from gradprobe.pytest_plugin.hooks import RunPlugin
    from gradprobe.result import Recording

_SETTINGS = pytest.StashKey[plugin_settings.PluginOptions]()
_LEFT = pytest.StashKey[list[Any]]()
"""What the first conftests left changed."""
_NAME = "gradprobe-watcher"
_FIXTURES = ("gradprobe", "grad_compare")
_MARKER = (
    "gradprobe(max_nodes, max_saved_bytes, max_version_bumps, require_mode, level): what the body of a test may cost in "
    "autograd nodes, bytes saved for backward and version bumps, and the mode that it must run under"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    plugin_settings.add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, Any, Any]:
    """The first conftests are imported before anything is configured, and may leave a mode changed."""
    try:
        is_watched = plugin_settings.resolve_options(early_config).records_every_test
    except pytest.UsageError:  # told once pytest has all its arguments
        is_watched = False
    if not is_watched:
        return (yield)
    from gradprobe.pytest_plugin.leaks import record_import_leaks

    with record_import_leaks() as left:
        result = yield
    early_config.stash[_LEFT] = left
    return result


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    config.stash[_SETTINGS] = found = plugin_settings.resolve_options(config)
    if found.records_every_test:
        _watch(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gradprobe") is not None]
    # A worker of pytest-xdist that stops here takes the run down; there the test itself fails.
    if marked and not hasattr(config, "workerinput"):
        from gradprobe.pytest_plugin.budgets import read_budget

        for item in marked:
            read_budget(item)
    if marked or any(name in getattr(item, "fixturenames", ()) for item in items for name in _FIXTURES):
        _watch(config)


def _watch(config: pytest.Config) -> RunPlugin:
    known: Any = config.pluginmanager.get_plugin(_NAME)
    if known is None:
        from gradprobe.pytest_plugin.hooks import RunPlugin

        left: list[Any] = config.stash.get(_LEFT, [])
        known = RunPlugin(config, config.stash[_SETTINGS], left)
        config.pluginmanager.register(known, _NAME)
    watcher: RunPlugin = known
    return watcher


@pytest.fixture
def gradprobe(request: pytest.FixtureRequest) -> Recording:
    """The live recording of this test: what its body did so far, whenever it is looked at."""
    return _watch(request.config).recording()


@pytest.fixture
def grad_compare(request: pytest.FixtureRequest) -> GradCompare:
    """Compares a call under no_grad, inference_mode and grad; the result goes to the report of the run."""
    from gradprobe.pytest_plugin.grad_compare import GradCompare

    return GradCompare(_watch(request.config))
