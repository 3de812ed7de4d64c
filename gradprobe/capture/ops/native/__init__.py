"""The native core of level ``ops``: a C++ version of the dispatcher for most operators.

``gradprobe build`` compiles it against the installed PyTorch. Without it the Python dispatcher handles every operator, with
the same results.
"""
