"""A traced program: its equations, their interpreter, rewrites of it."""
