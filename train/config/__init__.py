"""Configuration of a run, and its checks."""
