"""What the pages say can be followed: links lead somewhere, and commands, options and API pages are there."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```", re.M | re.S)


def prose(page: Path) -> str:
    """Text without code."""
    return re.sub(r"`[^`\n]*`", "`code`", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Names of headings as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def blocks(page: Path, language: str) -> Iterator[str]:
    """Code of a language."""
    for indent, kind, body in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind == language:
            yield re.sub(f"^{indent}", "", body, flags=re.M)


def commands(page: Path) -> Iterator[list[str]]:
    """Words of each shell command, comments left out."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words:
                    yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (fragment and path.suffix == ".md" and fragment not in anchors(path)):
            broken.append(target)
    assert not broken


def wrong_words(words: list[str], command: TyperCommand | TyperGroup) -> list[str]:
    """Subcommands and options that a command does not have."""
    for word in words:
        if isinstance(command, TyperGroup):
            if word in command.commands:
                command = command.commands[word]
                continue
            return [word] if not word.startswith("-") else []
        options = {
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        }
        if re.match(r"--?[a-z]", word) and word.split("=")[0] not in {*options, "--help", "-h"}:
            return [word]
    return []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path):
    from hbm.cli import app

    hbm = typer.main.get_command(app)
    wrong = []
    for words in commands(page):
        if words[0] == "hbm" and wrong_words(words[1:], hbm):
            wrong.append(" ".join(words))
        if words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
            wrong += [] if (ROOT / f"{words[2].replace('.', '/')}.py").is_file() else [words[2]]
    assert not wrong


def test_wrong_commands_are_seen():
    from hbm.cli import app

    hbm = typer.main.get_command(app)
    assert wrong_words(["fit", "a.ecsv", "--imagse", "b.h5"], hbm) == ["--imagse"]
    assert wrong_words(["fitt", "a.ecsv"], hbm) == ["fitt"]
    assert wrong_words(["grid", "info", "--whole"], hbm) == ["--whole"]
    assert wrong_words(["fit", "a.ecsv", "--no-correction", "-o", "b"], hbm) == []


def test_configurations_can_be_read():
    from generative.config import parse_config

    page = ROOT / "docs" / "howto" / "train_your_survey.md"
    found = [parse_config(tomllib.loads(block)) for block in blocks(page, "toml")]
    assert [config.data.source for config in found] == ["simulate", "hdf5"]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_python_compiles(page: Path):
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


def test_public_names_are_on_the_api_pages():
    import hbm

    text = (ROOT / "docs" / "api" / "hbm.md").read_text(encoding="utf-8")
    elsewhere = {"GalaxyState", "Term"}  # api/terms.md has their whole module
    assert not [name for name in dir(hbm) if name not in elsewhere and f":: hbm.{name}\n" not in text]
    for part in ("population", "plots"):
        source = (ROOT / "hbm" / part / "__init__.py").read_text(encoding="utf-8")
        text = (ROOT / "docs" / "api" / f"{part}.md").read_text(encoding="utf-8")
        whole = set(re.findall(r"automodule:: (\S+)", text))
        for module, name in re.findall(r"from (\S+) import \w+ as (\w+)", source):
            assert module in whole or f":: hbm.{part}.{name}\n" in text, f"hbm.{part}.{name}"
