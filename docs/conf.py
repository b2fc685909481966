"""Settings of the documentation site; ``sphinx-build -W -b html docs docs/_build`` makes it.

The pages are plain Markdown that reads as well on GitHub; those in ``api`` take their text from docstrings.
Building fetches nothing. Neither does reading, but for the script that draws diagrams: without a network
their text is shown.
"""

import tomllib
import typing
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "galaxy-hbm"
author = "The galaxy-hbm developers"
with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
    release = tomllib.load(file)["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinxcontrib.mermaid"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # links to headings are those of GitHub
myst_fence_as_directive = ["math", "mermaid"]

default_role = "py:obj"  # `hbm.fit` in a docstring is a link
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
# Signatures have the types, so what stands behind the name of a parameter is its unit; numpydoc leaves it so,
# and leaves a colon in the docstring of a field alone, where napoleon takes what is before it for a type.
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "galaxy-hbm"
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"


def _mathml(display: str) -> typing.Callable[[HTML5Translator, nodes.Element], None]:
    def visit(translator: HTML5Translator, node: nodes.Element) -> None:
        equation = convert(node.astext(), display=display)
        # Room for what hangs out of the box: furo would add a scroll bar.
        translator.body.append(
            f'<div style="padding: 0.5em 0">{equation}</div>' if display == "block" else equation
        )
        raise nodes.SkipNode

    return visit


def _without_stubs(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Fields of a `NamedTuple` without a docstring have one of Python's, which says nothing."""
    del app, what, name, obj, options
    if "".join(lines).strip().startswith("Alias for field number"):
        lines.clear()


def _short_types() -> None:
    """Write `Array` for `jax.Array`, and `ArrayLike` instead of all that it may be."""
    typing.GENERATING_DOCUMENTATION = "galaxy-hbm"  # type: ignore[attr-defined]
    import jaxtyping  # reads that
    from jax import typing as jax_typing

    jax_typing.ArrayLike = jaxtyping.ArrayLike


def setup(app: Sphinx) -> None:
    """Equations become MathML, which browsers draw without a script."""
    _short_types()
    app.add_html_math_renderer("mathml", (_mathml("inline"), None), (_mathml("block"), None))
    app.connect("autodoc-process-docstring", _without_stubs)
