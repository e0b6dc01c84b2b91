"""Modules to build networks with."""
