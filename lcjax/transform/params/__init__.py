"""The params of a collapsible function, and the keys of fused sites."""
