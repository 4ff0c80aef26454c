"""Settings of the documentation: `make docs` builds it into docs/_build, with warnings as errors and no network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(HERE.parent / "src"))

import foretune  # noqa: E402 - the checkout beside this file, whatever is installed

project = "foretune"
author = "the foretune authors"
project_copyright = author
version = release = foretune.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "reference_pages"]
source_suffix = {".md": "myst-nb"}
exclude_patterns = ["_build", "_ext", "jupyter_execute"]
html_theme = "furo"
html_title = f"foretune {version}"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # measured pages go from the title to their third level
nb_execution_mode = "force"
nb_execution_timeout = 600  # seconds per cell, on a busy machine
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "remove"  # progress bars of the libraries

autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
