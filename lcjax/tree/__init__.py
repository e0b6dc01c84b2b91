"""Pytrees of params: paths, slopes, selection of sites."""
