"""Kinds of values: what a value may be or contain of the tensors that a block creates, as a set of bits."""

from __future__ import annotations

PLAIN = 0
"""Certainly no tensor and without one: numbers, text, arrays of NumPy, and containers of these."""
IS, HOLDS = 1, 2
"""May be a tensor of the block; may be a container of some."""
_ELSE, GRADED = 4, 64
OTHER = _ELSE | GRADED
"""May be something else that is not plain: a tensor that the block did not create, a module, an unknown object.

``GRADED`` is the part of it that may require grad: what the block makes does not, whatever it is.
"""
OBJECT = 8
"""May be an object of one of the program's classes, whose attributes are known by their names."""
FUNCTION = 16
"""May be one of the program's functions or classes, or contain some."""
NEW = 32
"""May be an object of one of the program's classes that the block makes, or contain some."""
CARRIED = FUNCTION | NEW
"""Bits that containers and results have of what they are made of, whether or not a tensor is among it."""
OF_BLOCK = IS | HOLDS
ANY_OF_BLOCK = IS | HOLDS | _ELSE


def is_of_block(kind: int) -> bool:
    """Return whether a value may be or contain a tensor of the block."""
    return bool(kind & OF_BLOCK)


def get_element(kind: int, is_inside: bool) -> int:
    """Return the kind of what a value hands out by iteration or by an index: a tensor hands out views of itself."""
    found = kind & ~OBJECT
    if kind & HOLDS:
        found |= IS
    elif kind & OTHER and is_inside:
        found |= OF_BLOCK  # a loader creates its batches there, and a tensor views of itself
    return found
