"""Predictions and generated text."""
