"""A hash of the code that results come from, to notice runs of different code in one table."""

import ast
import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPUTES = (
    "preprocess.py",
    "cluster.py",
    "self_supervised/*.py",
    "segmentation/active_learning.py",
    "segmentation/common/*.py",
    "segmentation/data/*.py",
    "segmentation/model/*.py",
    "segmentation/selection/*.py",
    "segmentation/rounds/*.py",
)


def normalised(text):
    """Python source without comments, docstrings and layout, as a text of its syntax tree.

    The same in Python 3.10 to 3.13, other than ast.unparse, which quotes f-strings anew.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):  # Python 3.12.1 has empty pieces in some f-strings
            node.values = [v for v in node.values if getattr(v, "value", None) != ""]
        body = getattr(node, "body", None)
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]
    return outline(tree)


def outline(node):
    """A node of a syntax tree as text, without empty fields, of which later Pythons have more."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, [])]
        inside = ",".join(f"{name}={outline(value)}" for name, value in fields)
        return f"{type(node).__name__}({inside})"
    if isinstance(node, list):
        return f"[{','.join(map(outline, node))}]"
    return ascii(node)


@functools.cache
def sources_sha256(root=ROOT):
    """Hex SHA-256 of all files that compute results: their names and `normalised` texts."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in COMPUTES for path in root.glob(pattern)}):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(normalised(path.read_text(encoding="utf-8")).encode() + b"\0")
    return digest.hexdigest()
