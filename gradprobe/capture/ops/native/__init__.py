"""The native core of level ops: what the watcher does for most operators, without Python.

It is compiled against the PyTorch that it runs with, by ``gradprobe build``. Where it is not there, the watcher does all by
itself, to the same end.
"""
