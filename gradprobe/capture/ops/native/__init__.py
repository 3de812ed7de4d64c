"""The observer of operators: a C++ library that observes them by a dispatch key above autograd.

It is compiled on the machine that runs it, because what it uses of PyTorch has no stable interface: at the first use of
level ``ops``, or by ``gradprobe build-core``.
"""
