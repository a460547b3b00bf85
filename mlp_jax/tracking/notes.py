"""Markdown as the pages of MLflow show it, which set columns close and do not break long lines."""

import re


def spaced(table: str) -> str:
    """A table in Markdown with room between its columns."""
    is_rule = re.compile(r"[-:| ]+")
    lines = table.strip().split("\n")
    return "\n".join(
        line if is_rule.fullmatch(line) else line.replace(" |", "&emsp;|") for line in lines
    )


def code(command: str) -> str:
    """A command in lines that fit."""
    if len(command) > 80:
        command = re.sub(r" (?=[-+\w.'\"/]*=)", " \\\n    ", command)
    return f"```\n{command}\n```"
