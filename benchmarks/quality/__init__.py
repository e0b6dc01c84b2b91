"""Accuracy and perplexity of compact models, lcjax next to the baselines."""
