"""The site of `make docs`: the repository's Markdown files as pages with a search."""

from __future__ import annotations

project = "Paybus"
html_title = "Paybus"
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
source_suffix = {".md": "markdown"}
# Built from the root of the repository, so that links work in the site as they do in the files.
root_doc = "docs/site/index"
include_patterns = ["*.md", "docs/*.md", "docs/**/*.md"]
html_theme = "furo"
html_show_sourcelink = False
highlight_language = "none"
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4
# A page loads nothing from elsewhere: `make docs` puts mermaid beside the pages.
html_static_path = ["../../.paybus/npm/static"]
mermaid_use_local = "mermaid/mermaid.esm.min.mjs"
