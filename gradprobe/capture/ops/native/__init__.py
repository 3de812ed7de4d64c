"""The observer of operators: a C++ library that observes them by a dispatch key above autograd.

What it uses of PyTorch has no stable interface, so it serves the one PyTorch that it was compiled for: on the machine that
runs it, at the first use of level ``ops`` or by ``gradprobe build-core``, or elsewhere, for a wheel of ``make wheels``.
"""
