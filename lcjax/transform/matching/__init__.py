"""Sites in a traced program, and why other pairs of Dense layers are not sites."""
