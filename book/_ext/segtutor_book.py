"""What the theme leaves undone for screen readers, what API pages need from docstrings, and the labels of papers."""

from __future__ import annotations

import re
import string
from collections import defaultdict

import pybtex.plugin
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle
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


def cited_as(entry) -> str:
    """The names under which a text cites an entry: all of one or two authors, the first of more."""
    names = [" ".join(person.prelast_names + person.last_names) for person in entry.persons["author"]]
    names = [name.replace("{", "").replace("}", "") for name in names]
    return " and ".join(names) if len(names) <= 2 else f"{names[0]} et al."


def letter_years(app):
    """Adds a letter to the year of entries that a text would cite alike: "Chen et al. [2018a]" and "[2018b]".

    Letters follow the order of references.bib. The years of the parsed entries are changed, so that citations and
    bibliography agree; the file is left alone.
    """
    alike = defaultdict(list)
    for entry in app.env.get_domain("cite").bibdata.data.entries.values():
        year = entry.fields["year"].rstrip(string.ascii_lowercase)  # a kept environment has its letters already
        alike[cited_as(entry), year].append(entry)
    for (_, year), entries in alike.items():
        for letter, entry in zip(string.ascii_lowercase, entries, strict=False):
            entry.fields["year"] = year + letter if len(entries) > 1 else year


class CitedLabels(BaseLabelStyle):
    """Labels in the bibliography are what a text says of the entry: "Chen et al., 2018a"."""

    def format_labels(self, sorted_entries):
        for entry in sorted_entries:
            yield f"{cited_as(entry)}, {entry.fields['year']}"


class CitedStyle(Unsorted):
    """Bibliography by author and year, labelled as it is cited."""

    default_sorting_style = "author_year_title"
    default_label_style = CitedLabels


def setup(app):
    """Sphinx's entry point."""
    pybtex.plugin.register_plugin("pybtex.style.formatting", "cited", CitedStyle)
    app.connect("builder-inited", letter_years)
    app.connect("html-page-context", mend)
    app.connect("html-page-context", name_sidebar, priority=900)  # after the theme has added its functions
    app.connect("missing-reference", forgive)
    # a property's first line is a sentence, also where it holds a colon; napoleon would read a type before it
    GoogleDocstring._parse_attribute_docstring = lambda self: self._dedent(self._consume_to_end())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
