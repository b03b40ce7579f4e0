"""The library's own source, as chapters show it: whole, without docstrings, or as a skeleton."""

import ast
import inspect
import textwrap
from typing import Any


class Source:
    """Python source that a notebook shows highlighted and a terminal prints plainly.

    It reaches the notebook as a Markdown code block, so that page and notebook colour it by their own theme, light or
    dark.
    """

    def __init__(self, code: str):
        self.code = code

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        fence = "```"
        while fence in self.code:
            fence += "`"
        return f"{fence}python\n{self.code}\n{fence}"


def show_source(obj: Any, *, skeleton: bool = False, part: str | None = None, docstring: bool = True) -> Source:
    """The source of a class, function or module, as it is in the library.

    Args:
        obj: class, function, method or module; of an instance, its class.
        skeleton: signatures and first docstring lines only, bodies elided.
        part: show only this member, e.g. "forward" (dotted names reach deeper).
        docstring: False leaves docstrings out.

    Raises:
        ValueError: `obj` has no such part, or no Python source.
    """
    if not (inspect.ismodule(obj) or inspect.isclass(obj) or inspect.isroutine(obj)):
        obj = type(obj)
    for name in part.split(".") if part else ():
        if not hasattr(obj, name):
            raise ValueError(f"{getattr(obj, '__name__', obj)} has no part named {name!r}")
        obj = inspect.getattr_static(obj, name)
        obj = obj.fget if isinstance(obj, property) else getattr(obj, "__func__", obj)
    try:
        code = textwrap.dedent(inspect.getsource(inspect.unwrap(obj) if inspect.isroutine(obj) else obj))
    except (OSError, TypeError) as error:
        raise ValueError(f"{obj!r} has no Python source to show") from error
    if skeleton:
        code = _skeleton(code)
    elif not docstring:
        code = _without_docstrings(code)
    return Source(code.strip("\n"))


_Def = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _doc_node(node: ast.Module | _Def) -> ast.Expr | None:
    first = node.body[0] if node.body else None
    return first if isinstance(first, ast.Expr) and ast.get_docstring(node, clean=False) is not None else None


def _without_docstrings(code: str) -> str:
    lines = code.splitlines()
    drop: set[int] = set()
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        doc = _doc_node(node)
        if doc is not None and (isinstance(node, ast.Module) or len(node.body) > 1):
            end = _end(doc)
            drop.update(range(doc.lineno - 1, end))
            if end < len(lines) and not lines[end].strip():
                drop.add(end)  # the blank line that set the docstring apart
    return "\n".join(line for number, line in enumerate(lines) if number not in drop)


def _end(node: ast.stmt) -> int:
    """The number of a statement's last line."""
    return node.end_lineno or node.lineno


def _first_line(doc: ast.Expr) -> str:
    text = str(ast.literal_eval(doc.value)).strip().partition("\n")[0].strip()
    raw = "r" if "\\" in text else ""
    return f'{raw}"""{text}"""'


def _skeleton(code: str) -> str:
    lines = code.splitlines()
    out: list[str] = []

    def emit(node: _Def, indent: str) -> None:
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        if out and out[-1].strip() and not out[-1].rstrip().endswith(":"):
            out.append("")
        doc = _doc_node(node)
        start_of_body = node.body[0].lineno
        if start_of_body == node.lineno:  # def f(): return 1
            out.extend(lines[first - 1 : node.lineno])
            return
        header = lines[first - 1 : start_of_body - 1]
        while header and not header[-1].split("#")[0].rstrip().endswith(":"):
            header.pop()  # comments between signature and body
        out.extend(header)
        inner = indent + "    "
        if doc is not None:
            out.append(inner + _first_line(doc))
        if isinstance(node, ast.ClassDef):
            members(node.body, inner, doc)
            if len(node.body) == 1 and doc is None:
                out.append(f"{inner}...")
        else:
            out.append(f"{inner}...")

    def members(body: list[ast.stmt], indent: str, doc: ast.Expr | None) -> None:
        for statement in body:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                emit(statement, indent)
            elif statement is not doc and isinstance(statement, (ast.Assign, ast.AnnAssign)):
                out.extend(lines[statement.lineno - 1 : statement.end_lineno])

    tree = ast.parse(code)
    doc = _doc_node(tree)
    if doc is not None:
        out.append(_first_line(doc))
    members(tree.body, "", doc)
    return "\n".join(out)
