"""The shape of the code: which way imports point, what importing costs, and where randomness may come from."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MAX_LINES = 450
MAX_WEIGHT_BYTES = 30_000_000

# From the ground up, as in docs/design.md. A part may import parts above it in this list and its own, no other.
LAYERS = (
    (
        *("pasta_gym.command_line", "pasta_gym.files", "pasta_gym.forks", "pasta_gym.torchvision_ops"),
        *("pasta_gym.types", "pasta_gym.seeding", "pasta_gym.settings", "pasta_gym.softmax"),
    ),
    ("pasta_gym.mini",),
    ("pasta_gym.encoders",),
    ("pasta_gym.datasets",),
    ("pasta_gym.prompt_books",),
    ("pasta_gym.user_model",),
    ("pasta_gym.candidates",),
    ("pasta_gym.images",),
    ("pasta_gym.worlds", "pasta_gym.full"),  # a world by name may be full-size; those are built as worlds
    ("pasta_gym.envs",),
    ("pasta_gym.registration",),
    ("pasta_gym",),
    ("pasta_gym.wrappers",),
    ("pasta_gym.trajectories",),
    ("agents",),
    ("benchmarks",),
)
# `candidates` and `images` stand side by side: neither knows the other.
STRANGERS = {frozenset({"pasta_gym.candidates", "pasta_gym.images"})}
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

HEAVY = (
    *("torch", "torchvision", "diffusers", "transformers", "open_clip", "peft", "openai"),
    *("d3rlpy", "wandb", "hydra", "pyarrow"),
)
NUMPY_RANDOM = {"Generator", "BitGenerator", "SeedSequence", "PCG64", "Philox", "default_rng"}
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "multinomial", "normal", "bernoulli"}
TORCH_GLOBAL = {"rand_like", "randn_like", "randint_like", "seed", "initial_seed"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def sources():
    return sorted(path for part in ("pasta_gym", "agents", "benchmarks") for path in (ROOT / part).rglob("*.py"))


def name(path):
    return str(path.relative_to(ROOT))


@functools.cache
def tree(path):
    return ast.parse(path.read_text())


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module):
    """The most specific part of LAYERS that a module belongs to; None for packages of others."""
    if module.split(".")[0] not in {"pasta_gym", "agents", "benchmarks"}:
        return None
    for length in range(len(module.split(".")), 0, -1):
        prefix = ".".join(module.split(".")[:length])
        if prefix in RANK:
            # A new module beside the known ones must take a place of its own, not the root's.
            return prefix if prefix != "pasta_gym" or module == "pasta_gym" else module
    return module


def imported_modules(path):
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            base = base if node.level else node.module
            for alias in node.names:
                child = f"{base}.{alias.name}"
                is_module = (ROOT / child.replace(".", "/")).is_dir() or (
                    ROOT / f"{child.replace('.', '/')}.py"
                ).exists()
                yield (child if is_module else base), node.lineno


def breaches(path):
    here = part_of(module_of(path))
    for module, line in imported_modules(path):
        there = part_of(module)
        if there is None or there == here:
            continue
        if there not in RANK:
            yield f"{name(path)}:{line}: {there} has no place in LAYERS"
        elif RANK[there] > RANK[here] or frozenset({here, there}) in STRANGERS:
            yield f"{name(path)}:{line}: {here} imports {module}"


def test_every_module_has_its_place():
    unplaced = [name(path) for path in sources() if part_of(module_of(path)) not in RANK]
    assert not unplaced, f"give these a place in LAYERS and in docs/design.md: {unplaced}"
    assert len(sources()) > 40


def test_imports_point_one_way():
    assert not [breach for path in sources() for breach in breaches(path)]


def test_the_import_rule_sees_upward_sideways_and_hidden_imports(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for part in ("mini", "envs", "candidates", "images"):
        (tmp_path / "pasta_gym" / part).mkdir(parents=True)
    low = tmp_path / "pasta_gym" / "mini" / "low.py"
    low.write_text("import numpy\nfrom pasta_gym import types\ndef late():\n    from pasta_gym import envs\n")
    side = tmp_path / "pasta_gym" / "candidates" / "side.py"
    side.write_text("from ..images import x\nfrom ..mini import y\nimport pasta_gym.utils\n")
    (tmp_path / "pasta_gym" / "types.py").write_text("")
    assert list(breaches(low)) == ["pasta_gym/mini/low.py:4: pasta_gym.mini imports pasta_gym.envs"]
    assert list(breaches(side)) == [
        "pasta_gym/candidates/side.py:1: pasta_gym.candidates imports pasta_gym.images",
        "pasta_gym/candidates/side.py:3: pasta_gym.utils has no place in LAYERS",
    ]


def test_importing_the_package_is_light():
    code = "import pasta_gym, sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"pasta_gym", "gymnasium", "numpy"} <= loaded
    assert not loaded & set(HEAVY)


def test_importing_registers_the_environment():
    code = "import gymnasium, pasta_gym; print(gymnasium.spec('PastaT2I-v0').id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "PastaT2I-v0", done.stderr


def dotted(node):
    """``a.b.c`` of an attribute chain, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def seeded_blocks(path):
    """Line ranges in which torch's global generator is borrowed and given back."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.With):
            entered = [dotted(item.context_expr.func) for item in node.items if isinstance(item.context_expr, ast.Call)]
            if "torch.random.fork_rng" in entered:
                yield range(node.lineno, (node.end_lineno or node.lineno) + 1)


def global_draws(path):
    borrowed = list(seeded_blocks(path))
    trains = path.name.startswith("train_")  # commands that own their process
    for node in ast.walk(tree(path)):
        called = dotted(node.func) if isinstance(node, ast.Call) else ""
        used = dotted(node) if isinstance(node, ast.Attribute) else ""
        in_block = any(node.lineno in block for block in borrowed) if hasattr(node, "lineno") else False
        if isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            yield f"{name(path)}:{node.lineno}: imports random"
        elif used.startswith(("np.random.", "numpy.random.")) and used.split(".")[2] not in NUMPY_RANDOM:
            yield f"{name(path)}:{node.lineno}: {used}"
        elif called == "torch.manual_seed" and not (trains or in_block):
            yield f"{name(path)}:{node.lineno}: torch.manual_seed outside torch.random.fork_rng"
        elif called.startswith("torch.") and called.split(".")[1] in TORCH_GLOBAL and not in_block:
            yield f"{name(path)}:{node.lineno}: {called} has no generator"
        elif (
            called.startswith("torch.")
            and called.removeprefix("torch.") in TORCH_DRAWS
            and not in_block
            and not any(keyword.arg == "generator" for keyword in node.keywords)
        ):
            yield f"{name(path)}:{node.lineno}: {called} without a generator"


def test_randomness_is_an_argument():
    assert not [draw for path in sources() for draw in global_draws(path)]


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("import random", True),
        ("np.random.shuffle(x)", True),
        ("x = np.random.rand", True),
        ("rng: np.random.Generator = np.random.default_rng(0)", False),
        ("torch.manual_seed(0)", True),
        ("with torch.random.fork_rng(devices=[]):\n    torch.manual_seed(0)\n    torch.randn(3)", False),
        ("torch.randn(3)", True),
        ("torch.randn(3, generator=g)", False),
        ("torch.randn_like(x)", True),
    ],
)
def test_the_randomness_rule_tells_global_from_given(tmp_path, monkeypatch, code, caught):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "sample.py"
    path.write_text(code)
    assert bool(list(global_draws(path))) is caught


def unsafe_loads(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"{name(path)}:{node.lineno}: imports {m}" for m in modules if m.split(".")[0] in PICKLES)
        elif isinstance(node, ast.Call):
            options = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
            if options.get("allow_pickle") or options.get("trust_remote_code"):
                yield f"{name(path)}:{node.lineno}: runs code from a file"
            if dotted(node.func) == "torch.load" and options.get("weights_only") is not True:
                yield f"{name(path)}:{node.lineno}: torch.load without weights_only=True"


def test_loading_a_file_never_runs_code():
    assert not [breach for path in sources() for breach in unsafe_loads(path)]


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("import pickle", True),
        ("from joblib import load", True),
        ("torch.load(p)", True),
        ("torch.load(p, weights_only=False)", True),
        ("torch.load(p, weights_only=True)", False),
        ("np.load(p, allow_pickle=True)", True),
        ("np.load(p, allow_pickle=False)", False),
        ("AutoModel.from_pretrained(p, trust_remote_code=True)", True),
    ],
)
def test_the_loading_rule_tells_code_from_data(tmp_path, monkeypatch, code, caught):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "sample.py"
    path.write_text(code)
    assert bool(list(unsafe_loads(path))) is caught


@pytest.mark.parametrize("path", sources(), ids=name)
def test_files_are_short_and_named_after_the_domain(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES, "split it by what its parts are called"
    assert path.stem not in {"utils", "util", "common", "helpers", "misc"}


def test_shipped_weights_are_small_and_not_pickles():
    files = [path for path in (ROOT / "pasta_gym").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= MAX_WEIGHT_BYTES
    assert not [name(path) for path in files if path.suffix in {".pt", ".pth", ".ckpt", ".pkl", ".bin"}]


def tracked_texts():
    folders = ("pasta_gym", "agents", "benchmarks", "conf", "tests", "docs", ".ci")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.is_file()]
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".cfg", ".csv", ".html", ""}
    return [path for path in found if path.suffix in suffixes and "__pycache__" not in path.parts]


def test_no_file_names_a_place_on_one_machine():
    places = ["/" + place + "/" for place in ("work", "tmp", "root", "opt", "home")]
    found = [
        f"{name(path)}: {place}"
        for path in tracked_texts()
        for place in places
        if place in path.read_text(errors="ignore").replace("https:/", "")
    ]
    assert not found
