"""Sphinx configuration: `make docs` builds docs/_build/html without a network."""

import os
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import lcjax  # noqa: E402

project = "lcjax"
author = "The lcjax authors"
copyright = "2026, The lcjax authors"
version = release = lcjax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "docstrings",
    "public_api",
]
exclude_patterns = ["_build", "_ext"]
templates_path = ["_templates"]
nitpick_ignore = []

# Docstrings: Google style; single backticks are code.
default_role = "code"
autosummary_generate = True
# Pages of names that differ only in capitals, for file systems that ignore them.
autosummary_filename_map = {
    "lcjax.Plan": "lcjax.Plan-class",
    "lcjax.Sensitivity": "lcjax.Sensitivity-class",
}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"member-order": "bysource"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("References", "notes_style")]
# Examples in docstrings run under pytest --doctest-modules, with the names of their module.
doctest_test_doctest_blocks = ""
doctest_global_setup = "import jax\nimport jax.numpy as jnp\nimport lcjax\n"

# Pages and notebooks.
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 900  # of a cell; all three take a minute on an idle machine
nb_execution_raise_on_error = True
nb_merge_streams = True

html_theme = "sphinx_book_theme"
html_title = "lcjax"
html_static_path = ["_static"]
html_css_files = ["lcjax.css"]
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_copy_source = False
html_show_sourcelink = False
mathjax_path = os.environ.get("LCJAX_DOCS_MATHJAX", "")
if not mathjax_path:
    del mathjax_path  # Sphinx's default


def _reachable(mapping):
    """Returns the entries whose inventories can be read, none when there is no network."""
    found = {}
    for name, url in mapping.items():
        try:
            urllib.request.urlopen(f"{url}objects.inv", timeout=3).close()
        except OSError:
            break
        found[name] = (url, None)
    return found


intersphinx_mapping = _reachable(
    {
        "python": "https://docs.python.org/3/",
        "jax": "https://docs.jax.dev/en/latest/",
        "flax": "https://flax.readthedocs.io/en/latest/",
        "optax": "https://optax.readthedocs.io/en/latest/",
        "orbax": "https://orbax.readthedocs.io/en/latest/",
    }
)
