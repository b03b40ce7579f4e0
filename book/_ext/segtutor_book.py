"""What the theme leaves undone for readers who use a screen reader, and what the API pages need from docstrings."""

from __future__ import annotations

import re

from sphinx import addnodes
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.nodes import get_node_source

FOLDED = re.compile(r'<summary aria-label="Toggle hidden content">')
SOLUTION = re.compile(r'(<div class="cell [^"]*tag_solution.*?)Show code cell content(.*?)Hide code cell content', re.S)


def name_sidebar(app, pagename, templatename, context, doctree):
    """Gives the arrows that unfold the sidebar a name; the theme draws them as a picture only."""
    generate = context.get("generate_toctree_html")
    if generate is None:
        return

    def named(*arguments, **options):
        return str(generate(*arguments, **options)).replace("<summary>", '<summary aria-label="Pages below this one">')

    context["generate_toctree_html"] = named


def mend(app, pagename, templatename, context, doctree):
    """Rewrites the finished text of one page."""
    if not context.get("body"):
        return
    # the label hides the words beside it from a screen reader, and from somebody who speaks them to press it
    body = FOLDED.sub("<summary>", context["body"])
    # its entries have no role of their own, so the role of the whole promises what is not there
    body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    context["body"] = SOLUTION.sub(r"\1Show the solution\2Hide the solution", body)


def forgive(app, env, node, contnode):
    """Shows a name in a docstring or signature as it is when it leads nowhere: other packages, what is not public.

    References in the text of a page, the API pages included, stay strict.
    """
    if node.get("refdomain") != "py":
        return None
    parent = node.parent
    while parent is not None and not isinstance(parent, addnodes.desc):
        parent = parent.parent
    generated = parent is not None or "docstring of" in (get_node_source(node) or "")
    return contnode if generated else None


def setup(app):
    """Sphinx's entry point."""
    app.connect("html-page-context", mend)
    app.connect("html-page-context", name_sidebar, priority=900)  # after the theme has added its functions
    app.connect("missing-reference", forgive)
    # a property's first line is a sentence, also where it holds a colon; napoleon would read a type before it
    GoogleDocstring._parse_attribute_docstring = lambda self: self._dedent(self._consume_to_end())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
