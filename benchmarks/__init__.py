"""Benchmarks. Run one from the top folder: `python -m benchmarks.step_overhead`."""
