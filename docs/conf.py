"""Builds the documentation with Sphinx and MyST."""

project = "rbkit"
author = "the rbkit maintainers"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = "rbkit"
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
exclude_patterns = ["_build"]
