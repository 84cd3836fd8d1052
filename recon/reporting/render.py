"""An executed notebook as one HTML file that stands alone: no script, nothing fetched, fit for print.

nbconvert does the work, on a template of our own: its usual page loads three scripts from elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recon.reporting.markup import CSS, TEMPLATES, marked
from recon.reporting.result import ResultJson, printable

if TYPE_CHECKING:
    from nbformat import NotebookNode

PAGE_CSS = (TEMPLATES / "page.css").read_text(encoding="utf-8")
"""The style of a report page."""


def render(notebook: NotebookNode, result: ResultJson) -> str:
    """The page, with the verdict of `result` on top; code stays visible, small."""
    from nbconvert import HTMLExporter  # slow to import

    exporter = HTMLExporter(template_name="recon", extra_template_basedirs=[str(TEMPLATES)])  # type: ignore[no-untyped-call]
    exporter.exclude_anchor_links = True
    page, _ = exporter.from_notebook_node(notebook, resources={"page": _page(result)})
    return str(page)


def _page(result: ResultJson) -> dict[str, str]:
    digest = result["plan_digest"]
    failed = [check["name"] for check in result["checks"] if not check["ok"]]
    return {
        "title": printable(f"{result['stage']}, profile {result['profile_id']}, batch {result['batch_id']}"),
        "css": PAGE_CSS + CSS,
        "verdict": result["verdict"],
        "code": result.get("code", ""),
        "message": marked(printable(result.get("message", ""))),
        "failed": printable(f"checks that failed: {', '.join(failed)}") if failed else "",
        "digest": f"plan digest {digest}" if digest else "",
    }
