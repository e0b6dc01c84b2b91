"""The tree of a collapsible function, and the keys of its fused sites."""
