"""Comment of the action on its pull request: ``pull_request_comment.py FILE`` shows FILE in it, later runs update it.

It needs the standard library alone, and reads from the environment what the runner of GitHub sets. A comment that cannot be
made is a warning of the job, whose result is that of gradprobe.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_LENGTH = 65_000
"""GitHub refuses longer comments, from 65,536 characters on."""
_PER_PAGE = 100


def main(file: str) -> None:
    """Write the comment, and print a warning if that is not possible."""
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    number = event.get("pull_request", {}).get("number")
    if number is None:
        print("::notice title=gradprobe::not a run for a pull request, so there is none to comment on")
        return
    try:
        write_comment(number, Path(file).read_text(encoding="utf-8"))
    except urllib.error.HTTPError as error:
        hint = "; the job needs the permission `pull-requests: write`" if error.code in (401, 403, 404) else ""
        print(f"::warning title=gradprobe::cannot comment on the pull request: {error}{hint}")
    except OSError as error:
        print(f"::warning title=gradprobe::cannot comment on the pull request: {error}")


def write_comment(number: int, text: str) -> None:
    """Write the text to this job's comment on a pull request, which is made if there is none."""
    # A comment of each job: another one of the same workflow may run the action on other files.
    marker = f"<!-- gradprobe: {os.environ.get('GITHUB_WORKFLOW', '')}, {os.environ.get('GITHUB_JOB', '')} -->"
    comment = {"body": f"{marker}\n{shorten(text)}"}
    for known in list_comments(number):
        # A reply that quotes the comment has the marker too, but not at its beginning.
        if known["body"].startswith(marker):
            request("PATCH", f"issues/comments/{known['id']}", comment)
            return
    request("POST", f"issues/{number}/comments", comment)


def shorten(text: str) -> str:
    """Return as many lines of the text as a comment can have."""
    if len(text) <= MAX_LENGTH:
        return text
    return text[:MAX_LENGTH].rpartition("\n")[0] + "\n\nThe rest is in the summary of the job.\n"


def list_comments(number: int) -> Iterator[dict[str, Any]]:
    """Yield the comments of a pull request, the first one first."""
    page = 1
    while True:
        comments = request("GET", f"issues/{number}/comments?per_page={_PER_PAGE}&page={page}")
        yield from comments
        if len(comments) < _PER_PAGE:
            return
        page += 1


def request(method: str, path: str, content: dict[str, str] | None = None) -> Any:
    """Send a request about the repository to GitHub, and return the answer."""
    sent = urllib.request.Request(
        f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}/{path}",
        method=method,
        data=None if content is None else json.dumps(content).encode(),
        headers={"Authorization": f"Bearer {os.environ['TOKEN']}", "Accept": "application/vnd.github+json"},
    )
    with urllib.request.urlopen(sent, timeout=60) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main(sys.argv[1])
