"""Small files in exactly the formats of the public datasets, and ways to break them."""

import datetime
import io
import json
import sqlite3

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

SIZE = 8


def picture(seed=0, kind="JPEG"):
    """Encoded bytes of a small picture; another seed, another picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(SIZE, SIZE, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, format=kind)
    return stream.getvalue()


PICKAPIC = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)


def pickapic_row(number, **changes):
    row = {
        "are_different": True,
        "best_image_uid": f"uid-{2 * number}",
        "caption": f"prompt {number // 2}",
        "created_at": datetime.datetime(2023, 1, 1),
        "has_label": True,
        "image_0_uid": f"uid-{2 * number}",
        "image_0_url": "https://example.org/0",
        "image_1_uid": f"uid-{2 * number + 1}",
        "image_1_url": "https://example.org/1",
        "jpg_0": picture(2 * number),
        "jpg_1": picture(2 * number + 1),
        "label_0": 1.0,
        "label_1": 0.0,
        "model_0": "a",
        "model_1": "b",
        "ranking_id": number // 2,
        "user_id": number % 3,
        "num_example_per_prompt": 2,
        "__index_level_0__": number,
    }
    return row | changes


def write_table(path, rows, schema=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)
    return path


def write_pickapic(folder, shards, split="train", pixels=True, row_group_size=4, **options):
    """Write shards, each a list of rows, under the names of the publisher."""
    schema = PICKAPIC if pixels else pa.schema([field for field in PICKAPIC if not field.name.startswith("jpg_")])
    for number, rows in enumerate(shards):
        rows = [{key: value for key, value in row.items() if key in schema.names} for row in rows]
        name = f"{split}-{number:05d}-of-{len(shards):05d}-0123456789abcdef.parquet"
        write_table(folder / "data" / name, rows, schema, row_group_size=row_group_size, **options)
    return folder


HPD_TRAIN = [
    {"prompt": "a red fox", "image_path": ["00000001.jpg", "00000002.jpg"], "human_preference": [1, 0]},
    {"prompt": "a red fox", "image_path": ["00000002.jpg", "00000003.jpg"], "human_preference": [0, 1]},
    {"prompt": "Ein Bär — 熊", "image_path": ["00000003.jpg", "00000001.jpg"], "human_preference": [1, 0]},
]
HPD_TEST = [
    {
        "prompt": "a lake",
        "image_path": ["a.jpg", "b.jpg", "c.jpg"],
        "rank": [1, 0, 2],
        "raw_annotations": [
            {"annotation": [1, 0, 2], "user_hash": "f00d"},
            {"annotation": [2, 1, 0], "user_hash": "beef"},
        ],
    },
    {
        "prompt": "a hill",
        "image_path": ["d.jpg", "a.jpg"],
        "rank": [2, 1],
        "raw_annotations": [{"annotation": [2, 1], "user_hash": "f00d"}],
    },
]


def write_hpdv2(folder, train=HPD_TRAIN, test=HPD_TEST, skip=()):
    """Write both splits and all images that they name, but for the basenames in ``skip``."""
    for split, entries in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
        names = {name for entry in entries for name in entry.get("image_path", entry.get("file_path", ()))}
        for number, name in enumerate(sorted(names - set(skip))):
            (folder / split / name.rsplit("/", 1)[-1]).write_bytes(picture(number))
    return folder


SAC_TABLES = """
CREATE TABLE survey (id INTEGER, qid INTEGER, rating INTEGER, PRIMARY KEY (id, qid));
CREATE TABLE generations (id INTEGER PRIMARY KEY, sid INTEGER, method INTEGER, prompt TEXT, verified INTEGER);
CREATE TABLE images (id INTEGER PRIMARY KEY, gid INTEGER, idx INTEGER);
CREATE TABLE paths (iid INTEGER, path TEXT);
CREATE TABLE ratings (sid INTEGER, iid INTEGER, rating INTEGER, verified INTEGER);
CREATE TABLE upscales (iid INTEGER PRIMARY KEY, method INTEGER);
"""
SAC_PATH = "home/jdp/simulacra-aesthetic-captions/sac-000001/"


def write_simulacra(folder, ratings=((7, 1, 10), (7, 2, 1), (8, 3, 4), (None, 1, 7)), skip=(), statements=()):
    """Write the database and its images; image i is of generation 100 + i.

    Image 1 lies at its path, 2 at its path's last part, 3 under its short name. Surveys 7 and 8 have a row for each of
    their 20 questions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sac_public_2022_06_29.sqlite"
    connection = sqlite3.connect(file)
    connection.executescript(SAC_TABLES)
    for survey in (7, 8):
        answers = [(survey, question, 1 + (survey * question) % 10) for question in range(20)]
        connection.executemany("INSERT INTO survey VALUES (?, ?, ?)", answers)
    for image in (1, 2, 3):
        connection.execute("INSERT INTO generations VALUES (?, 7, 3, ?, 1)", (100 + image, f"dream {image}"))
        connection.execute("INSERT INTO images VALUES (?, ?, 1)", (image, 100 + image))
        connection.execute("INSERT INTO paths VALUES (?, ?)", (image, f"{SAC_PATH}{100 + image}_dream_{image}_1.png"))
    connection.executemany("INSERT INTO ratings VALUES (?, ?, ?, 1)", ratings)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    images = folder / "images"
    places = {1: SAC_PATH + "101_dream_1_1.png", 2: "102_dream_2_1.png", 3: "103_1.png"}
    images.mkdir(exist_ok=True)
    for image, place in places.items():
        if image not in skip:
            (images / place).parent.mkdir(parents=True, exist_ok=True)
            (images / place).write_bytes(picture(image, "PNG"))
    return file, images


LABELS = {
    "raters": [{"rater": r, "split": s} for r, s in enumerate(("train", "train", "test"))],
    "pairs": [
        {"rater": 0, "session": 0, "prompt": 5, "first": 3, "second": 9, "label": 1.0},
        {"rater": 2, "session": 2, "prompt": 9, "first": 0, "second": 1, "label": 0.5},
        {"rater": 1, "session": 1, "prompt": 7, "first": 4, "second": 2, "label": 0.0},
    ],
    "ratings": [
        {"rater": 0, "session": 1, "prompt": 7, "image": 8, "rating": 10},
        {"rater": 1, "session": 0, "prompt": 5, "image": 0, "rating": 1},
        {"rater": 2, "session": 2, "prompt": 9, "image": 1, "rating": 4},
    ],
    "rankings": [{"rater": 1, "session": 1, "prompt": 7, "images": [5, 0, 2]}],
    "turns": [
        {
            "rater": s,
            "session": s,
            "turn": t,
            "prompt": 5 + 2 * s,
            "slate": [40 + s, 80 + t],
            "choice": (s + t) % 2,
            "column_satisfaction": [1 + s, 5 - t],
            "turn_satisfaction": 3,
            "than_before": [None, "better"][t],
            "critique": "less red" if s == t == 1 else None,
        }
        for s in range(3)
        for t in range(2)
    ],
}
LABELS_METADATA = {"format": 1, "pool": "../pool", "horizon": 2, "slate_size": 2, "images_per_prompt": 2}


def write_labels(folder, tables=LABELS, metadata=None, n_sessions=3, dim=4):
    """Write labels of three raters and a pool in two shards; image i of session s is [s, i, 0, ...]."""
    labels, pool = folder / "labels", folder / "pool"
    for name, rows in tables.items():
        write_table(labels / f"{name}.parquet", rows)
    pool.mkdir()
    (labels / "metadata.json").write_text(json.dumps(LABELS_METADATA | {"rating_levels": 10} | (metadata or {})))
    for start, end in ((0, 2), (2, n_sessions)):
        numbers = np.arange(start, end)
        images = np.zeros((len(numbers), 10, dim), dtype=np.float16)
        images[..., 0], images[..., 1] = numbers[:, None], np.arange(10)
        prompts = np.repeat(numbers[:, None], dim, axis=1).astype(np.float32)
        shard = {"sessions": numbers, "prompt_embeddings": prompts, "image_embeddings": images}
        np.savez_compressed(pool / f"shard-{start:06d}.npz", **shard)
    return labels


def drain(dataset):
    """Read all records of a dataset."""
    return [*dataset.comparisons(), *dataset.ratings(), *dataset.sessions()]
