"""Console commands: each module has a `main`, which the scripts in tools/ call."""
