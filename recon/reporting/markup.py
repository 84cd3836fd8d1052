"""The one place that fills HTML templates: every value is escaped by Jinja's autoescape, a missing one is an error."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

TEMPLATES = Path(__file__).parent / "templates"
"""The folder of the templates, which ship with the package."""

CSS = (TEMPLATES / "style.css").read_text(encoding="utf-8")
"""The rules for tables and verdicts, by class."""

STYLE = f"<style>\n{CSS}</style>\n"
"""The same as an element, for outputs that must look right on their own in JupyterLab."""


def marked(text: str) -> Markup:
    """The text, escaped, with what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped right here


def fill(name: str, **values: object) -> str:
    """The template `name` with `values`, escaped; the same values give the same bytes."""
    return _environment().get_template(name).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["marked"] = marked
    return environment
