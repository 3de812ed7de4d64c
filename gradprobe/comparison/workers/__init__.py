"""The processes that measure, and the protocol between them and the experiment."""
