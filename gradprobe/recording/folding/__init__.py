"""Sums of finished blocks and operators, which keep a recording of any length bounded."""
