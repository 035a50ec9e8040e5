"""The pages tell the truth: their code runs, their links lead somewhere, their tables agree with the code."""

import functools
import inspect
import pathlib
import re
import textwrap

import gymnasium as gym
import pytest

import pasta_gym  # noqa: F401  registers the environment

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Signatures with shapes in them, for people who change the code: not programs.
NOT_RUN = {"docs/design.md"}
TOP = ("pasta_gym", "agents", "benchmarks", "conf", "tests", "docs")


def name(page):
    return str(page.relative_to(ROOT))


@functools.cache
def text(page):
    return page.read_text()


FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", flags=re.MULTILINE | re.DOTALL)


def fences(page, language):
    return [textwrap.dedent(body) for _, tag, body in FENCE.findall(text(page)) if tag == language]


def prose(page):
    return FENCE.sub("", text(page))


def slugs(page):
    """Anchors that a Markdown viewer makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def with_python(page):
    return bool(fences(page, "python")) and name(page) not in NOT_RUN


@pytest.mark.parametrize("page", [page for page in PAGES if with_python(page)], ids=name)
def test_the_code_on_a_page_runs_from_top_to_bottom(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for number, block in enumerate(fences(page, "python")):
        exec(compile(block, f"{name(page)}, block {number}", "exec"), namespace)


def test_the_newcomers_example_is_short_and_talks(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (example, *_) = fences(ROOT / "README.md", "python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the user asks for: ")
    assert [line.split(":")[0] for line in lines[1:]] == [f"turn {t}" for t in range(1, 6)]
    assert all(0 <= float(line.split("satisfaction ")[1].split()[0]) <= 10 for line in lines[1:])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in slugs(linked)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_files_and_commands_exist(page):
    missing = []
    for path in re.findall(rf"`((?:{'|'.join(TOP)})/[\w./-]*)`", prose(page)):
        if not (ROOT / path).exists():
            missing.append(path)
    for module in re.findall(r"python -m ((?:pasta_gym|agents|benchmarks)[\w.]*)", text(page)):
        source = ROOT / module.rstrip(".").replace(".", "/")
        if not (source.with_suffix(".py").exists() or (source / "__main__.py").exists()):
            missing.append(f"python -m {module}")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    missing += [f"make {t}" for t in re.findall(r"`make ([a-z]+)", text(page)) if t not in targets]
    assert not missing


def test_every_page_is_reached_from_the_index_or_the_readme():
    start = [ROOT / "README.md", ROOT / "docs" / "index.md"]
    linked = {(p.parent / t.split("#")[0]).resolve() for p in start for t in re.findall(r"\]\(([^)\s]+)\)", prose(p))}
    alone = [name(page) for page in PAGES if page not in linked and page not in start and page.parent.name != "agents"]
    assert [page for page in alone if page != "CHANGELOG.md"] == []


ENVIRONMENT = ROOT / "docs" / "environment.md"


def table_after(heading):
    section = text(ENVIRONMENT).split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "]
    return rows[1:]


@pytest.fixture(scope="module")
def environment():
    with gym.make("PastaT2I-v0", images="surrogate") as env:
        yield env


def test_the_observation_table_is_the_observation_space(environment):
    letters = {"H": 5, "L": 4, "M": 4, "L_C": 25, "d": 64}
    stated = {}
    for key, shape, dtype, _ in table_after("Observation space"):
        sizes = [part.strip() for part in shape.strip("()").split(",") if part.strip()]
        stated[key.strip("`")] = (tuple(letters[size] for size in sizes), dtype)
    spaces = environment.observation_space.spaces
    assert stated == {key: (space.shape, str(space.dtype)) for key, space in spaces.items()}


def test_the_argument_table_is_the_signature(environment):
    stated = {row[0].strip("`"): row[1].strip("`") for row in table_after("Arguments")}
    parameters = inspect.signature(type(environment.unwrapped).__init__).parameters
    assert set(stated) == set(parameters) - {"self"}
    for argument, default in stated.items():
        if not default.startswith("the "):
            assert default == repr(parameters[argument].default).replace("'", '"')
        else:
            assert parameters[argument].default is None


def test_the_info_table_names_what_info_holds(environment):
    _, info = environment.reset(seed=1)
    stated = {key for row in table_after("Info") for key in re.findall(r"`(\w+)`", row[0])}
    assert stated == set(info)


def test_the_page_and_the_class_tell_the_same_version_history(environment):
    page = re.findall(r"^- (v\d+):", text(ENVIRONMENT), flags=re.MULTILINE)
    in_class = re.findall(
        r"\b(v\d+)\b", inspect.getdoc(type(environment.unwrapped)).lower().split("version history")[1]
    )
    assert page == list(dict.fromkeys(in_class))
    assert page[-1] == environment.spec.id.split("-")[1]


def test_the_wrapper_table_names_every_wrapper():
    from pasta_gym import wrappers

    stated = {row[0].strip("`") for row in table_after("Wrappers")}
    offered = {key for key, value in vars(wrappers).items() if inspect.isclass(value) and key[0] != "_"}
    assert stated <= offered
    assert {key for key in offered if issubclass(getattr(wrappers, key), gym.Wrapper)} <= stated


def test_generated_blocks_are_marked_once():
    for page, block in ((ROOT / "README.md", "table"), (ROOT / "docs" / "mini_world.md", "figures")):
        for end in ("begin", "end"):
            assert text(page).count(f"<!-- {block}:{end} -->") == 1
