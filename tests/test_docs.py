"""The documents name what is there."""

import ast
import re
from pathlib import Path

import pytest

import rectiflow

PROJECT = Path(rectiflow.__file__).parent.parent.parent
MAP = (PROJECT / "docs" / "paper_map.md").read_text(encoding="utf-8")
LINKED = re.compile(r"\]\((?!https?:)([^)#]+)")


def names_in(file):
    tree = ast.parse((PROJECT / file).read_text(encoding="utf-8"))
    named = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    plain = [node.targets for node in tree.body if isinstance(node, ast.Assign)]
    annotated = [[node.target] for node in tree.body if isinstance(node, ast.AnnAssign)]
    targets = [target for each in plain + annotated for target in each]
    return named | {target.id for target in targets if isinstance(target, ast.Name)}


def test_the_map_names_code_and_tests_that_exist():
    places = re.findall(r"`((?:src|tests)/[^`]+\.py)`(?:: ((?:`\w+`(?:, )?)+))?", MAP)
    assert len(places) > 30
    for file, names in places:
        assert (PROJECT / file).is_file(), file
        missing = set(re.findall(r"`(\w+)`", names)) - names_in(file)
        assert not missing, f"{file} has no {missing}"


@pytest.mark.parametrize(
    "document", sorted(PROJECT.glob("*.md")) + sorted(PROJECT.glob("docs/*.md"))
)
def test_links_between_documents_lead_somewhere(document):
    for target in LINKED.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(program, names)
    assert [image.size for image in names["images"]] == [(64, 64)] * 2
    assert (tmp_path / "two-red-circles.png").is_file()
