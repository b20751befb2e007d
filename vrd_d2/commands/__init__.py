"""Console commands: each module has a `main`, which the scripts in tools/ call.

Arguments are parsed before anything heavy is imported.
"""
