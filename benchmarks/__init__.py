"""Side-by-side measurements, each a command that prints one table: `python -m benchmarks.step --help`."""
