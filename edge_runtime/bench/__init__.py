"""The instrument: what a model costs on this machine, measured so that it can be repeated and trusted."""
