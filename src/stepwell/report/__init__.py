"""One self-contained HTML page from sections of tables, charts and findings.

The page opens from disk without a network: the drawing library, the data and the style are inside it, and its
content security policy forbids loading anything else.
"""

from __future__ import annotations

from stepwell.report.page import render, write

__all__ = ["render", "write"]
