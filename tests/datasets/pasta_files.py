"""The same few rater sessions in every layout, storage and format that the blind loader reads."""

import base64
import csv
import json
import zipfile

from tests.datasets.formats import picture, write_table

L, M, H = 4, 4, 2
CHOICES = ((0, 3), (2, 1), (3, 0))


def place(session, turn, column, image):
    return f"images/s{session}/{turn}_{column}_{image}.jpg"


def pixels(session, turn, column, image):
    return picture(((session * H + turn) * L + column) * M + image)


def stored(storage, *at):
    if storage == "bytes":
        return pixels(*at)
    if storage == "struct":
        return {"bytes": pixels(*at), "path": None}
    return base64.b64encode(pixels(*at)).decode() if storage == "base64" else place(*at)


def turn_fields(session, turn, storage, base):
    return {
        "turn": turn,
        "choice": CHOICES[session][turn] + base,
        "prompt_expansions": [f"a cat {session}, style {turn}{column}" for column in range(L)],
        "images": [[stored(storage, session, turn, c, m) for m in range(M)] for c in range(L)],
        "critique": "more light" if (session, turn) == (1, 1) else None,
    }


def session_fields(session):
    return {"session_id": f"s{session}", "rater_id": session % 2, "initial_prompt": f"a cat {session}"}


def rows_of(layout, storage="bytes", base=0):
    """Rows of the sessions: ``turns``, ``nested`` or ``lists``."""
    sessions = [(session_fields(s), [turn_fields(s, t, storage, base) for t in range(H)]) for s in range(len(CHOICES))]
    if layout == "turns":
        return [{**session, **turn} for session, turns in sessions for turn in turns]
    if layout == "nested":
        return [{**session, "turns": turns} for session, turns in sessions]
    return [{**s, **{key: [turn[key] for turn in turns] for key in turns[0] if key != "turn"}} for s, turns in sessions]


def numbered(row):
    """Spread lists over numbered columns."""
    flat = {key: value for key, value in row.items() if key not in ("images", "prompt_expansions")}
    flat |= {f"image_{c}_{m}": row["images"][c][m] for c in range(L) for m in range(M)}
    return flat | {f"expansion_{c + 1}": row["prompt_expansions"][c] for c in range(L)}


def write_rows(path, rows, kind):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        write_table(path, rows, row_group_size=2)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            cell = lambda value: json.dumps(value) if isinstance(value, list) else value  # noqa: E731
            writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    return path


def write_images(folder):
    for s in range(len(CHOICES)):
        for t in range(H):
            for c in range(L):
                for m in range(M):
                    path = folder / place(s, t, c, m)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(pixels(s, t, c, m))


def zipped(folder, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return path


EXPECTED = [
    {
        "rater": str(s % 2),
        "prompt": f"a cat {s}",
        "choices": list(CHOICES[s]),
        "images": [[[pixels(s, t, c, m) for m in range(M)] for c in range(L)] for t in range(H)],
        "prompts": [tuple(f"a cat {s}, style {t}{c}" for c in range(L)) for t in range(H)],
        "critiques": [None, "more light" if s == 1 else None],
    }
    for s in range(len(CHOICES))
]


def read_back(dataset):
    return [
        {
            "rater": session.rater,
            "prompt": session.prompt,
            "choices": [turn.choice for turn in session.turns],
            "images": [[[image.read() for image in column] for column in turn.images] for turn in session.turns],
            "prompts": [turn.prompts for turn in session.turns],
            "critiques": [turn.critique for turn in session.turns],
        }
        for session in dataset.sessions()
    ]
