# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""Links from the pages to files outside of docs/, which the site does not hold: their paths as text."""

import posixpath
import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs for each page."""

    def path_of(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), match[2]))
        if path.startswith("docs/"):
            return match[0]
        shown = match[1].strip("`")
        return f"`{path}`" if path.endswith(shown) else f"{match[1]} (`{path}`)"

    return _OUTSIDE.sub(path_of, markdown)
