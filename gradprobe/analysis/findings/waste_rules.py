"""Rules about context managers that change nothing but cost time."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.analysis.findings.evidence import Evidence, is_comparison_code
from gradprobe.analysis.findings.finding import Finding

_MIN_REDUNDANT_ENTRIES = 100


def find_redundant_managers(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP801: sites that set the mode that was already active a hundred times or more."""
    sites = evidence.tables.sites
    is_ours = sites["file"].map(is_comparison_code).astype(bool)
    for site in sites[(sites["redundant"] >= _MIN_REDUNDANT_ENTRIES) & ~is_ours].to_dict("records"):
        message = (
            f"{site['manager']} set the mode that was already active in {int(site['redundant']):,} of {site['count']:,} "
            "entries."
        )
        line = None if site["line"] is None else int(site["line"])
        yield Finding("GP801", message, site["file"], line, site["function"], int(site["redundant"]))


RULES = (find_redundant_managers,)
"""Rules of this family; a recording is checked against each."""
