"""Statements of SQL are never put together from strings: values are bound parameters."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def made_of_strings(node: ast.AST) -> bool:
    """Tell whether an expression puts a text together from values: by an f-string, `%` or `+`."""
    for part in ast.walk(node):
        if isinstance(part, ast.JoinedStr) and any(isinstance(one, ast.FormattedValue) for one in part.values):
            return True
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mod | ast.Add):
            sides = (part.left, part.right)
            if any(
                isinstance(one, ast.JoinedStr | ast.Constant) and isinstance(getattr(one, "value", ""), str)
                for one in sides
            ):
                return True
    return False


STATEMENTS = {
    "execute",
    "exec_driver_sql",
    "executemany",
    "executescript",
    "text",
    "literal_column",
    "scalar",
    "scalars",
}


def statements_of_strings(tree: ast.Module) -> list[int]:
    """Lines where a statement of SQL is put together from strings, directly or by a name in the same function."""
    found = []
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            continue
        made = {
            target.id
            for node in ast.walk(scope)
            if isinstance(node, ast.Assign) and made_of_strings(node.value) and not isinstance(node.value, ast.Call)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(scope):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if name in STATEMENTS and (
                (isinstance(first, ast.Name) and first.id in made)
                or (isinstance(first, ast.JoinedStr | ast.BinOp) and made_of_strings(first))
                or (isinstance(first, ast.Call) and ast.unparse(first.func).endswith((".format", ".join")))
            ):
                found.append(node.lineno)
    return sorted(set(found))


def test_sql_is_never_put_together() -> None:
    """No statement of SQL is made from strings and values: values are bound parameters."""
    sources = [path for folder in ("activities", "workers", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 50
    found = {path.name: statements_of_strings(ast.parse(path.read_text(encoding="utf-8"))) for path in sources}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_check_of_sql_finds_what_it_looks_for() -> None:
    """On a text that breaks the rule in each way, the check tells each line."""
    sample = "\n".join(
        [
            "def work(connection, user):",
            "    connection.execute(f'SELECT {user}')",
            "    connection.execute(text('SELECT %s' % user))",
            "    connection.execute('SELECT ' + user)",
            "    connection.execute('SELECT {}'.format(user))",
            "    query = f'SELECT {user}'",
            "    connection.execute(query)",
            "    connection.execute(select(users).where(users.c.user_id == user))",
            "    connection.execute('PRAGMA synchronous=FULL')",
        ]
    )
    assert statements_of_strings(ast.parse(sample)) == [2, 3, 4, 5, 7]
