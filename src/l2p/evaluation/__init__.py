"""Benchmarks, judges, efficiency and the report."""
