"""What can be collapsed: sites and segments, and the params trees that they are found in."""
