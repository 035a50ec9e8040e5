import json

import pyarrow
import pyarrow.parquet
import pytest

from pasta_gym.datasets.registry import KINDS
from pasta_gym.full.initial_prompts import (
    main,
    read_initial_prompts,
    read_options,
    short_prompts,
    split_initial_prompts,
)
from pasta_gym.mini import grammar
from tests.datasets.formats import (
    HPD_TEST,
    pickapic_row,
    write_hpdv2,
    write_labels,
    write_pickapic,
    write_simulacra,
)
from tests.datasets.pasta_files import rows_of, write_rows

TEN = "one two three four five six seven eight nine ten"


@pytest.fixture
def write(tmp_path):
    def written(name, content):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return written


def test_a_text_file(write):
    path = write("p.txt", f"# from a list\n a  cat \n\n{TEN}\nA Cat\nun café\r\n")
    assert read_initial_prompts(path) == ["a cat", TEN, "un café"]


def test_json_lines_and_parquet(write, tmp_path):
    rows = [{"prompt": "a cat"}, {"prompt": "a dog"}]
    assert read_initial_prompts(write("p.jsonl", "\n".join(map(json.dumps, rows)) + "\n")) == ["a cat", "a dog"]
    assert read_initial_prompts(write("q.jsonl", '"a cat"\n{"text": "a dog"}')) == ["a cat", "a dog"]
    path = tmp_path / "p.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2], "caption": ["a cat", "a dog"]}), path)
    assert read_initial_prompts(path) == ["a cat", "a dog"]
    with pytest.raises(ValueError, match=r"has no column words; it has \['id', 'caption'\]"):
        read_initial_prompts(path, column="words")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", f"a cat\n\n{TEN} eleven\n", r"line 3 of .*p\.txt has 11 words, an initial prompt has 1 to 10"),
        ("p.txt", "a cat\n" + "x" * 5000, "line 2 of .* shorten or remove it"),
        ("p.jsonl", '{"prompt": "a cat"}\n{"prompt"', r"line 2 of .*p\.jsonl is no JSON"),
        ("p.jsonl", '{"prompt": 3}', "line 1 of .* has no prompt"),
        ("p.jsonl", '{"words": "a cat"}', r"has no column prompt or text or caption; it has \['words'\]"),
        ("p.txt", "# nothing\n", "holds no prompt"),
        ("p.csv", "a cat", r"read from \.txt, \.jsonl, \.parquet, got .*p\.csv"),
    ],
)
def test_what_cannot_be_read_says_where(write, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_initial_prompts(write(name, content))


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ValueError, match=r"no such file"):
        read_initial_prompts(tmp_path / "p.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"is not text in UTF-8"):
        read_initial_prompts(tmp_path / "b.txt")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"cannot read"):
        read_initial_prompts(tmp_path / "b.parquet")


def test_a_split_is_the_prompts_own():
    prompts = [f"a picture of {i}" for i in range(1000)]
    splits = split_initial_prompts(prompts)
    assert {
        name: abs(len(own) - share) < 40 for (name, own), share in zip(splits.items(), (800, 100, 100), strict=True)
    } == {
        "train": True,
        "validation": True,
        "test": True,
    }
    assert sorted(prompt for own in splits.values() for prompt in own) == sorted(prompts)
    longer = split_initial_prompts([*prompts, "another"])
    assert all(set(own) <= set(longer[name]) for name, own in splits.items())
    assert split_initial_prompts(prompts, seed=1) != splits


def test_short_prompts_of_a_list():
    assert list(short_prompts(["a cat", TEN + " eleven", " A  cat", "# no", "a dog"])) == ["a cat", "a dog"]


def without_pictures(kind, folder):
    """Real files of a kind whose pictures are missing or broken; options, and the prompts in them."""
    if kind == "hpdv2":
        names = {name for entry in HPD_TEST for name in entry["image_path"]}
        return [f"folder={write_hpdv2(folder, skip=names)}", "split=test"], ["a lake", "a hill"]
    if kind == "simulacra":
        file, images = write_simulacra(folder, skip={1, 2, 3})
        return [f"file={file}", f"images={images}"], ["dream 1", "dream 2", "dream 3"]
    if kind == "mini_raters":  # pairs, rankings, ratings, sessions
        return [f"folder={write_labels(folder)}"], [grammar.prompt_text(i) for i in (5, 9, 7)]
    if kind == "pasta_sessions":
        return [f"path={write_rows(folder / 'a.jsonl', rows_of('turns', 'path'), 'jsonl')}", "choice_base=0"], [
            f"a cat {i}" for i in range(3)
        ]
    rows = [pickapic_row(i, caption=c, jpg_0=b"?") for i, c in enumerate(("a cat", TEN + " eleven", "a dog"))]
    return [f"path={write_pickapic(folder, [rows])}"], ["a cat", "a dog"]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_prompts_of_every_kind_are_read_without_its_pictures(tmp_path, capsys, kind):
    options, prompts = without_pictures(kind, tmp_path / "data")
    out = tmp_path / "new" / "prompts.txt"
    main(["--kind", kind, *options, "--out", str(out)])
    assert read_initial_prompts(out) == prompts
    assert capsys.readouterr().out == f"{len(prompts)} prompts in {out}\n"
    assert [p.name for p in out.parent.iterdir()] == ["prompts.txt"]
    # Options may stand anywhere, and the pictures are looked at if somebody says so.
    main([options[0], "--limit", "1", "--kind", kind, "--out", str(out), *options[1:]])
    assert read_initial_prompts(out) == prompts[:1]
    if kind != "mini_raters":  # it has none
        with pytest.raises(SystemExit, match="are missing or broken"):
            main(["--kind", kind, *options, "verify_images=true", "--out", str(out)])


def test_the_path_of_a_dataset_has_a_flag_of_its_own(tmp_path):
    (option,), prompts = without_pictures("pickapic", tmp_path / "data")
    out = tmp_path / "prompts.txt"
    main(["--kind", "pickapic", "--path", option.removeprefix("path="), "--out", str(out)])
    assert read_initial_prompts(out) == prompts
    with pytest.raises(SystemExit, match=r"option path is given twice, as 'x' and 'y'; leave one out"):
        main(["--kind", "pickapic", "path=x", "--path", "y", "--out", str(out)])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("hpdv2", ["HPDv2"], r"options are KEY=VALUE, such as folder=FOLDER; got 'HPDv2'"),
        ("hpdv2", ["=HPDv2"], r"options are KEY=VALUE"),
        ("hpdv2", ["path=HPDv2"], r"hpdv2 cannot be opened .*its options are folder, split"),
        ("laion", ["path=x"], r"kind must be one of hpdv2, .*got 'laion'"),
    ],
)
def test_options_that_no_dataset_has(tmp_path, kind, options, message):
    with pytest.raises(SystemExit, match=message):
        main(["--kind", kind, *options, "--out", str(tmp_path / "p.txt")])
    assert not (tmp_path / "p.txt").exists()


def test_values_in_json_are_what_they_say():
    given = ["slate_size=3", 'columns={"rater_id": "worker"}', "path=data=1", "image_pattern={turn}.jpg"]
    assert read_options("pasta_sessions", given) == {
        "slate_size": 3,
        "columns": {"rater_id": "worker"},
        "path": "data=1",
        "image_pattern": "{turn}.jpg",
        "verify_images": False,
    }
    assert read_options("pasta_sessions", ["verify_images=true"]) == {"verify_images": True}
    assert read_options("mini_raters", ["folder=x"]) == {"folder": "x"}
