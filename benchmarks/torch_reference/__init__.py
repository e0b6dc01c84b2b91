"""LayerCollapse as published, in PyTorch, to hold lcjax's `--protocol reference` against.

Written afresh from the paper's description (arXiv 2311.17943); asks for the extra `torch`.
"""
