"""Sphinx configuration; doc/contributing.rst has the command that builds the site."""
import skbigmodel

project = "skbigmodel"
author = "skbigmodel developers"
copyright = "2026, skbigmodel developers"
version = release = skbigmodel.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
default_role = "py:obj"
suppress_warnings = ["ref.ref"]  # inherited docstrings point to labels of scikit-learn's own user guide

toc_object_entries_show_parents = "hide"
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

plot_html_show_formats = False
plot_html_show_source_link = False
plot_formats = [("png", 150)]

html_theme = "pydata_sphinx_theme"
html_title = "skbigmodel"
html_static_path = ["_static"]
html_css_files = ["skbigmodel.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
html_sidebars = {
    "quickstart": [],
    "tutorial": [],
    "examples": [],
    "design": [],
    "contributing": [],
}
