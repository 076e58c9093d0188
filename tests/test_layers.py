"""Imports point one way only, and asking for help does not pay for torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import switchq

PACKAGE = Path(switchq.__file__).parent

LAYERS = (
    "errors",
    "words",
    "files",
    "mishaps",
    "hub",
    "progress",
    "parallel",
    "bitmap",
    "plots",
    "quant",
    "nn",
    "models",
    "data",
    "evaluation",
    "inference",
    "training",
    "posttraining",
    "commands",
    "verbs_artifact",
    "verbs_ptq",
    "verbs_transfer",
    "verbs",
    "cli",
)

HEAVY = {"torch", "lightning", "transformers", "peft", "datasets", "evaluate", "torchmetrics", "jsonargparse", "rich"}

FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def rank(module: str) -> int:
    """Place of a dotted module name among the layers; the package itself, which offers them all, comes last."""
    parts = module.split(".")
    return LAYERS.index(parts[1]) if len(parts) > 1 else len(LAYERS)


def imported_modules(tree: ast.AST) -> list[str]:
    """Modules of this package that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            if node.module == "switchq":
                found += [f"switchq.{alias.name}" for alias in node.names]
            else:
                found.append(node.module or "")
    return [module for module in found if module.split(".")[0] == "switchq"]


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_imports_point_left(file: str) -> None:
    own = rank(f"switchq.{file.removesuffix('.py').replace('/', '.')}")
    imported = imported_modules(ast.parse((PACKAGE / file).read_text(encoding="utf-8")))
    assert [module for module in imported if rank(module) > own] == []


def test_every_file_belongs_to_a_layer() -> None:
    tops = {file.split("/")[0].removesuffix(".py") for file in FILES}
    assert tops - {"__init__"} <= set(LAYERS)


def test_cli_imports_nothing_heavy_at_module_level() -> None:
    tree = ast.parse((PACKAGE / "cli.py").read_text(encoding="utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-verb"]], ids=" ".join)
def test_help_does_not_load_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from switchq.cli import main; code = main(sys.argv[1:]);"
        f"loaded = sorted({HEAVY!r} & set(sys.modules)); sys.exit(f'loaded {{loaded}}' if loaded else code)"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == (2 if arguments == ["no-such-verb"] else 0), result.stderr
