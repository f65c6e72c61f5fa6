"""One version: the package's, the changelog's newest, and what a server says of itself."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_package_and_changelog_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    assert headings[0] == project["version"]
    numbers = [tuple(map(int, one.split("."))) for one in headings]
    assert numbers == sorted(set(numbers), reverse=True)


def test_what_is_installed_is_what_the_project_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert version("dragoman") == project["version"], "run make test, which installs it anew"
