"""What can be collapsed: chains of Dense layers, sites, segments."""
