"""The texts of the package that end in an error message, read from its source: what the Arabic catalogue must hold.

A template is a literal text with `{0}`, `{1}` … where values stand, a line each. Read are the arguments of the
exceptions that reach the command line and of the collectors that those are made of; a name or a local function among
the values is followed to the texts it may stand for, as far as its module goes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "dozan"
EXCEPTIONS = {"InputError", "Interrupted", "GoBack", "DiskFull", "ExportFailed", "ShapeError", "WorkerError",
              "EngineError", "BadParameter", "Problem", "Broken"}  # fmt: skip
COLLECTORS = re.compile(
    r"(self\.)?notes\.error|reader\.say|(errors|problems|wrong|refused|self\.problems)\.(append|add)"
)
LEAVE = "_leave"
FEWEST_LETTERS = 6
HOLE = re.compile(r"\{\d+\}")
UNREAD = {"compat", "hf"}
"""Packages for Python alone, whose errors no verb meets."""


@cache
def templates() -> dict[str, str]:
    """Each template of the package, with the place of its first use."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in UNREAD:
            module = Module(path)
            for line, text in module.texts():
                for part in split(text):
                    found.setdefault(part, f"{path.relative_to(PACKAGE.parent)}:{line}")
    return found


def split(text: str) -> Iterator[str]:
    """The lines of a template that say something, numbered anew."""
    for line in text.split("\n"):
        numbered = renumbered(line.strip())
        literal = HOLE.sub("", numbered)
        if sum(letter.isalpha() for letter in literal) >= FEWEST_LETTERS and " " in numbered:
            yield numbered


def renumbered(line: str) -> str:
    """A line whose holes count from 0; those that touch become one."""
    line = re.sub(r"(?:\{\d+\})+", "{0}", line)
    count = iter(range(line.count("{0}")))
    return re.sub(r"\{0\}", lambda _: f"{{{next(count)}}}", line)


class Module:
    """One file: its functions, its constants and those that it imports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = parsed(path)
        self.constants = dict(constants(path))
        self.scopes = [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)]
        self.functions = {node.name: node for node in self.scopes}

    def texts(self) -> Iterator[tuple[int, str]]:
        seen: set[ast.AST] = set()
        for scope in sorted(self.scopes, key=lambda node: -node.lineno):  # the inner function first
            for node in ast.walk(scope):
                if isinstance(node, ast.Call) and node not in seen and self.reaches(node):
                    seen.add(node)
                    given = [*node.args, *(word.value for word in node.keywords if word.arg in ("message", "words"))]
                    for argument in given:
                        yield from ((node.lineno, text) for text in self.read(argument, scope, frozenset()))

    def reaches(self, call: ast.Call) -> bool:
        """Whether a call makes an error message, or a part of one."""
        name = dotted(call.func)
        said = name == "self.say" and self.path.parts[-2] == "generate"
        return said or name in EXCEPTIONS or name == LEAVE or COLLECTORS.fullmatch(name) is not None

    def read(self, node: ast.expr, scope: ast.FunctionDef, seen: frozenset[str]) -> Iterator[str]:
        """The texts that an expression may be, and those of its values."""
        match node:
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr() | ast.BinOp():
                text, values = self.flat(node)
                yield text
                for value in values:
                    if value is not node:
                        yield from self.read(value, scope, seen)
            case ast.IfExp(body=body, orelse=orelse):
                yield from self.read(body, scope, seen)
                yield from self.read(orelse, scope, seen)
            case ast.BoolOp(values=values) | ast.List(elts=values) | ast.Tuple(elts=values):
                for value in values:
                    yield from self.read(value, scope, seen)
            case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element) | ast.Starred(value=element):
                yield from self.read(element, scope, seen)
            case ast.Subscript(value=ast.Name() as name):
                yield from self.read(name, scope, seen)
            case ast.Name(id=name) if name not in seen:
                for value in assigned(scope).get(name, ()):
                    yield from self.read(value, scope, seen | {name})
            case ast.Call(func=ast.Attribute(value=ast.Constant(), attr="join"), args=[joined]):
                yield from self.read(joined, scope, seen)
            case ast.Call(func=ast.Name(id="str" | "Errors"), args=[inner]):
                yield from self.read(inner, scope, seen)
            case ast.Call(func=ast.Name(id=name)) if name in self.functions and name not in seen:
                function = self.functions[name]
                for inside in ast.walk(function):
                    if isinstance(inside, ast.Return | ast.Yield) and inside.value is not None:
                        yield from self.read(inside.value, function, seen | {name})

    def flat(self, node: ast.expr) -> tuple[str, list[ast.expr]]:
        """A text with a hole for each value, and the values. Constants of modules are part of the text."""
        match node:
            case ast.Constant(value=str(text)):
                return text, []
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                (before, first), (after, second) = self.flat(left), self.flat(right)
                return before + after, [*first, *second]
            case ast.JoinedStr(values=parts):
                flat = [self.flat(part) for part in parts]
                return "".join(text for text, _ in flat), [value for _, values in flat for value in values]
            case ast.FormattedValue(value=ast.Name(id=name), conversion=conversion) if name in self.constants:
                constant = self.constants[name]
                return repr(constant) if conversion == ord("r") else constant, []
            case ast.FormattedValue(value=value):
                return "{0}", [value]
        return "{0}", [node]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def constants(path: Path) -> tuple[tuple[str, str], ...]:
    """The names of a module that stand for one literal text, its own and those imported from the package."""
    found: list[tuple[str, str]] = []
    for node in parsed(path).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                found.append((name, text))
            case ast.ImportFrom(module=str(module)) if module.startswith("dozan."):
                there = PACKAGE.parent / (module.replace(".", "/") + ".py")
                known = dict(constants(there)) if there.is_file() else {}
                found += [(a.asname or a.name, known[a.name]) for a in node.names if a.name in known]
    return tuple(found)


def dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{dotted(value)}.{name}"
    return ""


@cache
def assigned(scope: ast.FunctionDef) -> dict[str, list[ast.expr]]:
    """What each name of a function may hold: what is assigned, added or appended to it."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AugAssign(ast.Name(id=name), value=value):
                found.setdefault(name, []).append(value)
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                found.setdefault(name, []).append(value)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append"), args=[value]):
                found.setdefault(name, []).append(value)
    return found
