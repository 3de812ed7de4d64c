"""Explanations: the story of a line, a parameter, a module or a tensor, from what a recording knows."""
