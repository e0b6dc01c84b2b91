"""The forms of lcjax, in the harness of the baselines."""
