"""Processes that benchmarks talk to."""
