"""A training run: its command, report, timings and plots."""
