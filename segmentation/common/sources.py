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
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@functools.cache
def sources_sha256(root=ROOT):
    """Hex SHA-256 of all files that compute results: their names and `normalised` texts."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in COMPUTES for path in root.glob(pattern)}):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(normalised(path.read_text(encoding="utf-8")).encode() + b"\0")
    return digest.hexdigest()
