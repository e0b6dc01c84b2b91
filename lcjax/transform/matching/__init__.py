"""Pairs of Dense layers in a traced program, and why others are left alone."""
