"""Views of the journal: the closing summary, the sealed notebook, the HTML page."""
