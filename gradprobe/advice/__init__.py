"""Swap certificates: whether ``no_grad`` may become ``inference_mode`` at a line, decided by runs of the program."""
