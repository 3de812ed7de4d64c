"""Everything that touches the insides of PyTorch: observation of modes, operators, graphs and compilations."""
