"""Hooks of mkdocs: pages are written for the tree of the repository, and linked for the site here."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
# Pages at the top of the repository, by their name in the site.
TOP = {"index.md": "README.md", **{name: name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")}}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the top folder."""
    for name, source in TOP.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    for path in sorted((DOCS / "notebooks").glob("*.py")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path.read_text())))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def notebook(source: str) -> str:
    """Return a jupytext script of the percent format as a page: its text, and its code between fences."""
    parts = []
    for cell in re.split(r"(?m)^# %%", source)[1:]:
        kind, _, body = cell.partition("\n")
        text = re.sub(r"(?m)^# ?", "", body).strip() if "[markdown]" in kind else f"```python\n{body.strip()}\n```"
        parts.append(text)
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Return the page of all commands: the help of each, that of the configuration's keys once."""
    from sublora.cli.program import COMMANDS, help_of

    parts = ["# Commands and keys", "`sublora COMMAND --help`, as it stands in this version."]
    keyed = [name for name, command in COMMANDS.items() if command.configured]
    for name in COMMANDS:
        parts.append(f"## sublora {name}")
        if name in keyed[1:]:
            parts.append(f"{COMMANDS[name].help}. The options are those of [sublora {keyed[0]}](#sublora-{keyed[0]}).")
        else:
            parts.append(f"```text\n{help_of(name).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at pages of the site; what lies elsewhere in the repository is linked there, or named."""
    source = page.file.src_uri
    folder = ROOT if source in TOP else DOCS
    in_site = {ROOT / path: name for name, path in TOP.items()}

    def link(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = (folder / target).resolve()
        if path in in_site:
            return f"{image}[{text}]({in_site[path]}{anchor})"
        if path.is_relative_to(DOCS):
            return f"{image}[{text}]({path.relative_to(DOCS).as_posix()}{anchor})"
        place = path.relative_to(ROOT).as_posix()
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/HEAD/{place})"
        return text if text == place else f"{text} (`{place}`)"

    return LINK.sub(link, markdown)
