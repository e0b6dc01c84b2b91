"""LayerCollapse as published, in PyTorch, as a reference for lcjax's `--protocol paper`.

Written from the paper's description (arXiv 2311.17943); needs the extra `torch`.
"""
