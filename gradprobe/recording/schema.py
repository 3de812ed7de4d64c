"""SQLite schema of a recording, with the meaning of every column."""

from __future__ import annotations

import re

SCHEMA_VERSION = 3
"""Number of this schema, stored in the file's ``user_version``.

Version 1 had meta, sites, names, threads, blocks, folds and notes. Version 2 added operations, accounts and op_folds, and
the hidden time and nodes of folds. Version 3 added events that begin and end phases.
"""

APPLICATION_ID = 0x67726164
"""Number in the file's ``application_id`` that marks a recording among SQLite files."""

_DOCUMENTED_TABLES = """
CREATE TABLE meta (
    -- Facts about the recording as a whole. Key: value
    --   'began_ns', 'ended_ns': int: monotonic clock at its beginning and end; no end if the process was killed
    --   'began_wall_ns': int: wall clock at its beginning
    --   'include_torch': bool: whether reports show blocks of PyTorch's own code by default
    --   'only_calls': bool: whether nothing was observed outside of probed calls
    --   'reads_saved': bool: whether this PyTorch showed what nodes save for backward
    --   'limit', 'folded': int: events to be kept one by one, and events that were added up beyond that
    --   'environment': dict: versions, machine, process, rank, level
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL             -- JSON
);
CREATE TABLE sites (
    id INTEGER PRIMARY KEY,         -- number by which events refer to the site
    file TEXT,                      -- source file; NULL if not known
    line INTEGER,                   -- first line of the statement; NULL if not known
    end_line INTEGER,               -- last line of the statement; NULL if not known
    function TEXT,                  -- qualified name of the function; NULL if not known
    form TEXT NOT NULL,             -- 'with', 'decorator', 'generator' or 'indirect'
    internal INTEGER NOT NULL       -- 1 for PyTorch's own code
);
CREATE TABLE names (
    id INTEGER PRIMARY KEY,         -- number by which events refer to the name
    text TEXT NOT NULL              -- label of an asyncio task, or type of an exception
);
CREATE TABLE threads (
    id INTEGER PRIMARY KEY,         -- number by which events refer to the thread
    name TEXT NOT NULL,             -- name of the thread
    ident INTEGER NOT NULL,         -- identifier of the thread, which a later thread may have again
    began_ns INTEGER NOT NULL,      -- clock when the thread was first seen
    inherited INTEGER NOT NULL      -- 1 if the thread is older than the capture
);
CREATE TABLE blocks (
    id INTEGER PRIMARY KEY,         -- position in the recording
    count INTEGER NOT NULL,         -- number of events
    data BLOB NOT NULL              -- the events, packed by EventBlock.pack
);
CREATE TABLE folds (
    -- Finished blocks that were added up instead of kept, one row per manager, site, thread, state and error.
    manager INTEGER,                -- operation by which the blocks began
    site INTEGER,                   -- site of the blocks
    thread INTEGER,                 -- thread of the blocks
    state INTEGER,                  -- modes before and, four bits higher, inside
    error TEXT,                     -- type of the exception that passed through; '' if there was none
    count INTEGER,                  -- number of blocks
    total_ns INTEGER,               -- sum of their durations
    self_ns INTEGER,                -- sum of their durations without the blocks inside
    nodes INTEGER,                  -- autograd nodes constructed
    self_nodes INTEGER,             -- autograd nodes constructed outside of the blocks inside
    hidden_ns INTEGER,              -- the part of the blocks inside that PyTorch's own code entered
    hidden_nodes INTEGER,           -- autograd nodes constructed in that part
    durations TEXT,                 -- JSON object: number of blocks by duration class
    PRIMARY KEY (manager, site, thread, state, error)
);
CREATE TABLE operations (
    id INTEGER PRIMARY KEY,         -- number by which accounts and op_folds refer to the operation
    op TEXT NOT NULL,               -- name of the operator
    node TEXT,                      -- name of the autograd node that it constructed; NULL if there was none
    module TEXT NOT NULL,           -- dotted path of the innermost module that ran; '' if there was none
    phase INTEGER NOT NULL          -- 0 forward, 1 backward, 2 optimizer
);
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,         -- position in the recording
    kind TEXT NOT NULL,             -- kind of the rows, a key of ROW_DTYPES
    count INTEGER NOT NULL,         -- number of rows
    data BLOB NOT NULL              -- the rows, packed by pack_rows
);
CREATE TABLE op_folds (
    -- Operators that were added up without their regions, one row per site, operation and thread.
    site INTEGER,                   -- site of the operators
    operation INTEGER,              -- operation of the operators
    thread INTEGER,                 -- thread that ran them
    sums TEXT NOT NULL,             -- JSON list: bytes saved for backward, then the fields of OpCounts
    PRIMARY KEY (site, operation, thread)
);
CREATE TABLE notes (
    kind TEXT NOT NULL,             -- a value of NoteKind
    text TEXT NOT NULL,             -- a sentence, or JSON for the kinds of notes.py
    count INTEGER NOT NULL,         -- how often it happened
    PRIMARY KEY (kind, text)
);
"""

# SQLite stores the text of these statements in every file, and would keep the comments there.
CREATE_TABLES = re.sub(r"\s*--.*", "", _DOCUMENTED_TABLES)
"""Statements that create the tables."""
