import json

import pyarrow
import pyarrow.parquet
import pytest

from pasta_gym.full.initial_prompts import main, read_initial_prompts, short_prompts, split_initial_prompts

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


def test_short_prompts_of_a_dataset(tmp_path, monkeypatch, capsys):
    assert list(short_prompts(["a cat", TEN + " eleven", " A  cat", "# no", "a dog"])) == ["a cat", "a dog"]

    class Records:
        def comparisons(self):
            return iter([type("R", (), {"prompt": p})() for p in ("a cat", TEN + " eleven")])

        def ratings(self):
            return iter([type("R", (), {"prompt": "a dog"})()])

        def sessions(self):
            return iter([])

    monkeypatch.setattr("pasta_gym.datasets.open_dataset", lambda kind, path: Records())
    out = tmp_path / "new" / "prompts.txt"
    main(["--kind", "pickapic", "--path", "x", "--out", str(out)])
    assert read_initial_prompts(out) == ["a cat", "a dog"]
    assert capsys.readouterr().out == f"2 prompts in {out}\n"
    assert [p.name for p in out.parent.iterdir()] == ["prompts.txt"]
