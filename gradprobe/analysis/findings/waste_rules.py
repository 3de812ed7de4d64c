"""Managers that do nothing, where it costs."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence, is_comparison_code
from gradprobe.analysis.findings.finding import Finding

_MANY = 100


def find_redundant_managers(evidence: Evidence) -> Iterator[Finding]:
    """GP801: sites that set the mode that was in force, a hundred times or more."""
    sites = evidence.tables.sites
    for site in sites[(sites["redundant"] >= _MANY) & ~sites["file"].map(is_comparison_code).astype(bool)].to_dict(
        "records"
    ):
        message = (
            f"{site['manager']} found its mode in force already {int(site['redundant']):,} of {site['count']:,} times."
        )
        line = None if site["line"] is None else int(site["line"])
        yield Finding("GP801", message, site["file"], line, site["function"], int(site["redundant"]))
