"""Writes the same grid of prompts as language models do: twenty-odd layouts."""

import json

ASKED = "asked for"
WHY = "because so many words about what this person may like seem to have helped all of the people before with"
DRAFT = "* no\n- not this\n- nor this\n- or that\n- never this\n- by no means\n"


def _lists(title, item, between="\n"):
    def write(grid):
        return between.join(
            "\n".join([title(k, name), *(item(j, prompt) for j, prompt in enumerate(prompts))])
            for k, (name, prompts) in enumerate(grid)
        )

    return write


def _fenced(write, language=""):
    return lambda grid: f"```{language}\n{write(grid)}\n```"


def _as_object(grid):
    return json.dumps(dict(grid), indent=2, ensure_ascii=False)


def _as_records(grid):
    return json.dumps([{"category": t, "prompts": [{"prompt": p} for p in ps]} for t, ps in grid])


def _json_lines(grid):
    return "\n".join(json.dumps({"category": t, "prompts": ps}) for t, ps in grid)


def _python(grid, between=", ", last=","):
    """A dictionary as a model writes it: single quotes whatever is in the strings, commas after the last items."""
    lists = (f"'{t}': [{between.join(_quoted(p) for p in ps)}{last}]" for t, ps in grid)
    return "{" + between.join(lists) + last + "}"


def _quoted(text):
    return "'" + text.replace("\\", "\\\\") + "'"


def _commas(written):
    """Put commas before closing brackets of JSON whose strings have none."""
    return written.replace("]", ",]").replace("}", ",}")


LAYOUTS = {
    ASKED: _lists(lambda k, t: f"* {t}", lambda j, p: f"- {p}"),
    "angle titles": _lists(lambda k, t: f"* <{t}>", lambda j, p: f"- {p}"),
    "numbers": _lists(lambda k, t: f"{k + 1}. {t}", lambda j, p: f"   {j + 1}. {p}"),
    "numbered twice": _lists(lambda k, t: f"{k + 1}. {t}", lambda j, p: f"1.{j + 1} {p}"),
    "bold": _lists(lambda k, t: f"**{t}**", lambda j, p: f"{j + 1}. {p}", "\n\n"),
    "bold in a bullet": _lists(lambda k, t: f"* **{t}:**", lambda j, p: f"* {p}"),
    "bold number": _lists(lambda k, t: f"**{k + 1}. {t}**", lambda j, p: f"* {p}", "\n\n"),
    "headings": _lists(lambda k, t: f"### Category {k + 1}: {t}", lambda j, p: f'- **Prompt {j + 1}:** "{p}"', "\n\n"),
    "category prefix": _lists(lambda k, t: f"Category {k + 1}: {t}", lambda j, p: f"{'abcde'[j]}) {p}"),
    "German prefix": _lists(lambda k, t: f"Kategorie {k + 1} - {t}", lambda j, p: f"• {p}"),
    "bare titles": _lists(lambda k, t: t, lambda j, p: f"- {p}", "\n\n"),
    "paragraphs": _lists(lambda k, t: f"{t}:", lambda j, p: p, "\n\n"),
    "same bullet": _lists(lambda k, t: f"- {t}", lambda j, p: f"- {p}"),
    "nested bullets": _lists(lambda k, t: f"- {t}", lambda j, p: f"  - {p}"),
    "glued": _lists(lambda k, t: f"* {t}", lambda j, p: f"-{p}"),
    "labels": _lists(lambda k, t: f"* {t}", lambda j, p: f"- new_prompt_candidate_{j + 1}: {p}"),
    "word notes": _lists(lambda k, t: f"* {t}", lambda j, p: f"- “{p}” (12 words)"),
    "bold items": _lists(lambda k, t: f"## {t}", lambda j, p: f"- **{p}**"),
    "fence": _fenced(_lists(lambda k, t: f"* {t}", lambda j, p: f"- {p}")),
    "thoughts": lambda grid: "<think>\n* no\n- not this\n</think>\n" + LAYOUTS[ASKED](grid),
    "thoughts that the template began": lambda grid: (
        DRAFT + json.dumps({"no": ["not this", "nor this"]}) + "\n</think>\n" + LAYOUTS[ASKED](grid)
    ),
    "thoughts in brackets": lambda grid: f"[THINK]{DRAFT}[/THINK]" + LAYOUTS[ASKED](grid),
    "thoughts twice": lambda grid: f"{DRAFT}</think><think>\n{DRAFT}</think>\n" + LAYOUTS[ASKED](grid),
    "thoughts in an object": lambda grid: '<think>{"no": ["not this"]}</think>' + _as_object(grid),
    "thoughts with an echo": lambda grid: "<think>a <think> b</think>- not this</think>" + LAYOUTS[ASKED](grid),
    "talk": lambda grid: f"Sure! Here are your prompts:\n\n{LAYOUTS[ASKED](grid)}\n\nShall I write more of them?",
    "list before": lambda grid: f"What I see:\n- dusk wins\n- no people\n\n{LAYOUTS[ASKED](grid)}",
    "carriage returns": lambda grid: LAYOUTS[ASKED](grid).replace("\n", "\r\n"),
    "HTML breaks": lambda grid: LAYOUTS[ASKED](grid).replace("\n", "<br>"),
    "HTML breaks with spaces": lambda grid: LAYOUTS["bold"](grid).replace("\n", " <br /> "),
    "HTML breaks before line ends": lambda grid: LAYOUTS["numbers"](grid).replace("\n", "<br/>\n"),
    "arrows": _lists(lambda k, t: f"* {t}", lambda j, p: f"\u2192 {p}"),
    "glued arrows": _lists(lambda k, t: f"**{t}**", lambda j, p: f"\u27a1\ufe0f{p}"),
    "typed arrows": _lists(lambda k, t: f"{k + 1}. {t}", lambda j, p: f"-> {p}"),
    "notes in italics": _lists(lambda k, t: f"* {t}", lambda j, p: f"- {p}\n  *Explores {WHY}.*"),
    "notes in italics beside items": _lists(lambda k, t: f"* {t}", lambda j, p: f"- {p}\n_Explores {WHY}_"),
    "YAML": _lists(lambda k, t: f"- title: {t}\n  prompts:", lambda j, p: f"    - {p}"),
    "YAML with quotes": lambda grid: (
        "categories:\n"
        + "\n".join(f'  - name: "{t}"\n    candidates:\n' + "\n".join(f'    - "{p}"' for p in ps) for t, ps in grid)
    ),
    "flat": lambda grid: "\n".join(f"{i + 1}. {p}" for i, p in enumerate(p for _, ps in grid for p in ps)),
    "object": _as_object,
    "fenced object": _fenced(_as_object, "json"),
    "object cut short": lambda grid: _as_object(grid)[:-4],
    "records": _as_records,
    "lists of lists": lambda grid: "Here: " + json.dumps([ps for _, ps in grid]),
    "wrapped object": lambda grid: json.dumps({"categories": [{"title": t, "prompts": ps} for t, ps in grid]}),
    "JSON lines": _json_lines,
    "JSON lines with commas": lambda grid: _json_lines(grid).replace("}\n{", "},\n{"),
    "fenced JSON lines": _fenced(_json_lines, "jsonl"),
    "objects in fences": lambda grid: "\n".join(_fenced(_json_lines, "json")([row]) for row in grid),
    "Python": _python,
    "Python without last commas": lambda grid: "Sure: " + _python(grid, last="") + " Enjoy!",
    "Python on lines": _fenced(lambda grid: "categories = " + _python(grid, ",\n    "), "python"),
    "Python's own": lambda grid: repr(dict(grid)),
    "Python's tuples": lambda grid: repr([{"title": t, "prompts": tuple(ps)} for t, ps in grid]),
    "Python's lines": lambda grid: "\n".join(repr({"category": t, "prompts": ps}) for t, ps in grid),
    "object with last commas": lambda grid: _commas(_as_object(grid)),
    "object on a line with last commas": lambda grid: _commas(json.dumps(dict(grid))),
    "records with last commas": lambda grid: _commas(_as_records(grid)),
    "JavaScript": lambda grid: "[" + ", ".join(f"{{title: '{t}', prompts: {ps!r}}}" for t, ps in grid) + "]",
    "rows": lambda grid: json.dumps([{"category": t, "prompt": p} for t, ps in grid for p in ps]),
    "JSON lines of prompts": lambda grid: "\n".join(
        json.dumps({"category": t, "prompt": p}) for t, ps in grid for p in ps
    ),
    "a category a line": lambda grid: "\n".join(f"{t}: {'; '.join(ps)}" for t, ps in grid),
    "a bullet a category": lambda grid: "Here:\n\n" + "\n".join(f"- **{t}:** {'; '.join(ps)};" for t, ps in grid),
    "lines without titles": lambda grid: "\n".join("\uff1b".join(ps) for t, ps in grid),
    "table": lambda grid: (
        "| Category | Prompt |\n|---|---|\n" + "\n".join(f"| {t} | {p} |" for t, ps in grid for p in ps)
    ),
    "table with reasons": lambda grid: (
        "| # | Category | **New prompt** | Why this prompt |\n|--:|:--|:--|:--|\n"
        + "\n".join(f"| {i} | {t} | {p} | {WHY} {t} |" for t, ps in grid for i, p in enumerate(ps, 1))
    ),
    "table that begins with reasons": lambda grid: (
        "| Reason | Category title | Prompt |\n|--|--|--|\n"
        + "\n".join(f"| {WHY} {p} | {t} | {p} |" for t, ps in grid for p in ps)
    ),
    "table of rows": lambda grid: (
        "| Why | Theme | "
        + " | ".join(f"Prompt {j + 1}" for j in range(5))
        + " |\n"
        + "|---" * 7
        + "|\n"
        + "\n".join(f"| 7 | {t} | {' | '.join(ps)} |" for t, ps in grid)
    ),
}
WITHOUT_TITLES = {"flat", "lists of lists", "lines without titles"}
