"""The pages tell the truth: their code runs, their links lead somewhere, their tables agree with the code."""

import ast
import functools
import inspect
import itertools
import pathlib
import pydoc
import re
import textwrap

import gymnasium as gym
import pytest
import yaml

import pasta_gym  # noqa: F401  registers the environment

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Blocks of Python that no test runs, by page. Each says why in a comment before it: <!-- not run: reason -->.
NOT_RUN = {"docs/design.md": 4}
# Pages whose Python is tagged `py`, because a test of their own makes what it reads.
RUN_ELSEWHERE = {
    "docs/datasets.md": ROOT / "tests" / "datasets" / "test_datasets_page.py",
    "docs/user_model_evaluation.md": ROOT / "tests" / "test_docs_user_model.py",
}
TOP = ("pasta_gym", "agents", "benchmarks", "conf", "tests", "docs")


def name(page):
    return str(page.relative_to(ROOT))


@functools.cache
def text(page):
    return page.read_text()


FENCE = re.compile(
    r"^(?: *<!-- not run: ?(?P<reason>.*?) -->\n+)?(?P<indent> *)```(?P<tag>\w*)\n(?P<body>.*?)^(?P=indent)```$",
    flags=re.MULTILINE | re.DOTALL,
)


def fences(page, language, *, not_run=False):
    """Blocks in a language, without their indentation: those that are programs, or those that say why they are not."""
    found = [match for match in FENCE.finditer(text(page)) if match["tag"] == language]
    return [textwrap.dedent(match["body"]) for match in found if (match["reason"] is not None) == not_run]


def prose(page):
    return FENCE.sub("", text(page))


def slugs(page):
    """Anchors that a Markdown viewer makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def with_python(page):
    return bool(fences(page, "python"))


@pytest.mark.parametrize("page", [page for page in PAGES if with_python(page)], ids=name)
def test_the_code_on_a_page_runs_from_top_to_bottom(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for number, block in enumerate(fences(page, "python")):
        exec(compile(block, f"{name(page)}, block {number}", "exec"), namespace)


def test_blocks_that_are_not_run_say_why_and_grow_no_more():
    unrun = {name(page): len(fences(page, "python", not_run=True)) for page in PAGES}
    assert {page: n for page, n in unrun.items() if n} == NOT_RUN
    reasons = [match["reason"] for page in PAGES for match in FENCE.finditer(text(page)) if match["reason"] is not None]
    assert len(reasons) == sum(NOT_RUN.values()), "only Python is marked as not run"
    assert all(len(reason.split()) >= 3 for reason in reasons)


def test_a_marked_block_is_told_from_others(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\na\n```\n<!-- not run: it needs weights -->\n\n    ```python\n    b\n    ```\n\n```python\nc\n```\n"
    )
    assert fences(page, "python") == ["a\n", "c\n"]
    assert fences(page, "python", not_run=True) == ["b\n"]


def test_python_that_is_run_elsewhere_has_its_test():
    assert {name(page) for page in PAGES if fences(page, "py") or fences(page, "py", not_run=True)} == set(
        RUN_ELSEWHERE
    )
    for page, test in RUN_ELSEWHERE.items():
        assert pathlib.Path(page).name in test.read_text()


def is_python(body):
    """Whether a block without a language is a program: it parses, and it imports, assigns or calls something."""
    try:
        tree = ast.parse(body)
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.Call) for node in ast.walk(tree))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_is_marked_as_python(page):
    tags = {match["tag"] for match in FENCE.finditer(text(page))}
    assert tags <= {"", "python", "py", "yaml"}
    assert not [body for body in fences(page, "") if is_python(body)]


def test_a_program_without_a_language_is_seen():
    assert is_python("gather([a], b)   # -> data\n")
    assert is_python("import x\n")
    assert not is_python("make install   # everything\n")
    assert not is_python("runs/\n  a.csv   one row\n")


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


def loaded_settings():
    """``mkdocs.yml`` as plain data; what it names by Python path stays a string."""

    class Plain(yaml.SafeLoader):
        pass

    Plain.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
    return yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=Plain)


def leaves(entries):
    for entry in entries:
        ((title, target),) = entry.items()
        if isinstance(target, str):
            yield title, target
        else:
            yield from leaves(target)


def test_the_site_has_every_page_in_the_order_of_a_first_reading():
    nav = loaded_settings()["nav"]
    assert [title for entry in nav for title in entry] == [
        *("Home", "Quickstart", "The problem", "Environment", "User model", "Mini world", "Data", "Agents"),
        *("Benchmarks", "Extending", "Glossary", "What we say no to", "Reference"),
    ]
    listed = [target for _, target in leaves(nav)]
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_the_site_is_strict_and_fetches_nothing():
    settings = loaded_settings()
    assert settings["strict"] is True
    assert set(settings["validation"].values()) == {"warn"}
    assert settings["theme"]["font"] is False
    assert not re.findall(r"https?://", (ROOT / "mkdocs.yml").read_text())
    make = (ROOT / "Makefile").read_text()
    assert re.search(r"^docs:.*\n\t.*mkdocs build .*--strict$", make, flags=re.MULTILINE)
    assert re.search(r"^make .*\bdocs\b", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "reference").glob("*.md")), ids=name)
def test_the_reference_names_things_that_exist_and_are_documented(page):
    named = re.findall(r"^::: ([\w.]+)$", text(page), flags=re.MULTILINE)
    assert named
    for path in named:
        found = pydoc.locate(path)
        assert found is not None, path
        assert inspect.getdoc(found), path


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != ROOT], ids=name)
def test_blocks_look_the_same_to_every_reader_of_markdown(page):
    """Some nest what is indented by four spaces alone, and take a list after text for more of the text."""
    odd = []
    for match in FENCE.finditer(text(page)):
        if len(match["indent"]) % 4:
            odd.append(match[0].splitlines()[0])
    lines = prose(page).splitlines()
    for before, line in itertools.pairwise(lines):
        item, table = re.match(r"( *)([-*]|\d\.) ", line), re.match(r"( *)\|", line)
        after_text = before.strip() and not re.match(r" *([-*]|\d\.) |#| |<!--", before)
        if (item and after_text) or (table and (len(table[1]) % 4 or (after_text and before[0] != "|"))):
            odd.append(line)
    assert not odd


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
