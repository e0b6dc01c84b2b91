"""Benchmarks: one question a file; each prints a table and writes JSON under results."""
