"""Rules about context managers that change nothing but cost time."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.analysis.findings.catalogue import WARNING
from gradprobe.analysis.findings.evidence import Evidence, is_comparison_code, is_library, locate_site
from gradprobe.analysis.findings.finding import Finding, RelatedLine

_MIN_REDUNDANT_ENTRIES = 100
_MIN_COSTLY_ENTRIES = 10_000
_MAX_NS_OF_COSTLY_BLOCK = 12_000
"""Time of a block of which its manager, at about 1.2 microseconds, is a tenth or more."""


def find_redundant_managers(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP801: sites that set the mode that was already active a hundred times or more."""
    sites = evidence.tables.sites
    is_ours = sites["file"].map(is_comparison_code).astype(bool)
    for site in sites[(sites["redundant"] >= _MIN_REDUNDANT_ENTRIES) & ~is_ours].to_dict("records"):
        message = (
            f"This {site['manager']} changed nothing in {int(site['redundant']):,} of {site['count']:,} entries: its mode "
            "was already active."
        )
        line = None if site["line"] is None else int(site["line"])
        is_costly = (
            site["redundant"] >= _MIN_COSTLY_ENTRIES
            and site["median_ns"] <= _MAX_NS_OF_COSTLY_BLOCK
            and not is_library(site["file"])
        )
        if is_costly:
            message += (
                f" Half of the blocks take {site['median_ns'] / 1_000:.1f} microseconds or less; the manager's own time "
                "is a tenth of that or more."
            )
        outer = tuple(_locate_outer_blocks(evidence, site["file"], line)) if is_costly else ()
        level = WARNING if is_costly else ""
        count = int(site["redundant"])
        yield Finding("GP801", message, site["file"], line, site["function"], count, outer, level=level)


def _locate_outer_blocks(evidence: Evidence, file: str, line: int | None) -> Iterator[RelatedLine]:
    """Yield the block around the first redundant entry of a line, which has set the mode already."""
    for process, region in evidence.iter_regions(
        lambda columns: (columns.parent >= 0) & (columns.before == columns.inside)
    ):
        outer = region.parent
        if outer is not None and process.place(region.site)[:2] == (file, line):
            around = locate_site(process, outer.site, "mode entered here")
            if around is not None and (around.file, around.line) != (file, line):
                yield around
                return


RULES = (find_redundant_managers,)
"""Rules of this family; a recording is checked against each."""
