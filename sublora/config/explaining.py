"""The keys in words: choices and meaning of each, as its section states them."""

import ast
import inspect
import textwrap
import typing


def meanings(section: type) -> dict[str, str]:
    """Return what every field of a section means: the string that stands below it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


def choices(kind: object) -> tuple[str, ...]:
    """Return the words that a field of this type may be; none where it is no choice between words."""
    legal = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    return tuple(word for word in legal if word)
