"""What a table says by itself, in sentences: budgets, single seeds, collapses, and who does not beat the references."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from results import rows as grouping
from results import unbalanced
from results.cells import written
from results.parts import BALANCED, MAJORITY, RAW, Column, Pair, Row
from results.records import Record, accuracy
from ssl_bench import find
from ssl_bench.config.schema import to_dict


def against(pairs: Sequence[Pair], means: Mapping[str, float], column: Column) -> list[str]:
    """Who falls short of a reference, who cannot be told from the raw input, and who is below one in a single run."""
    out = []
    for reference in sorted({p.second for p in pairs}):
        said: dict[str, list[str]] = {}
        beside = [p for p in pairs if p.second == reference]
        for p in beside:
            below = means[p.first] != means[reference] and (means[p.first] > means[reference]) != column.higher
            certain = p.result.p_holm is not None and p.result.p_holm <= 0.05
            untold = p.result.ranks and not certain and not reference.startswith("random")  # that is marked in the row
            if (below and (certain or not p.result.ranks)) or untold:
                short = "falls short of" if certain else "cannot be told from" if p.result.ranks else "is worse than"
                said.setdefault(short, []).append(f"`{p.first}`")
        for short, names in sorted(said.items(), reverse=True):
            verb = short if len(names) == 1 else short.replace("falls", "fall").replace("is worse", "are worse")
            rest = " in one run, which is no verdict" if short == "is worse than" else ""
            who = f"all {len(names)} methods" if len(names) == len(beside) > 2 else ", ".join(names)
            out.append(f"In {column.label}, {who} {verb} `{reference}` ({written(means[reference])}){rest}.")
    return out


def majority(rows: Sequence[Row], columns: Sequence[Column], largest: Row) -> list[str]:
    """What always answering the largest class scores, and who is not above it."""
    out = []
    for i, (column, cell) in enumerate(zip(columns, largest.cells, strict=True)):
        if cell is not None:
            below = [f"`{r.label}`" for r in rows if (c := r.cells[i]) is not None and c.mean <= cell.mean]
            names = f": not above it: {', '.join(below)}" if below else ""
            out.append(f"In {column.label}, always answering the largest class gives {cell.mean:.1f}{names}.")
    return out


def one_class(records: Sequence[Record]) -> list[str]:
    """Sets whose accuracy says nothing of an encoder."""
    told = (r for r in records if r.data.get("test_classes") == 1 and unbalanced.majority([r]) is not None)
    names = sorted({f"`{r.data['name']}`" for r in told})
    return [f"All test images of {name} are of one class: always answering it scores 100." for name in names]


def budgets(rows: Sequence[Row]) -> list[str]:
    """Under which budget the table stands, or that its rows stand under different ones."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.budget:
            found.setdefault(row.budget, []).append(row.label)
    if not found:
        return []
    if len(found) == 1:
        return [f"Budget of every trained row: {next(iter(found))}."]
    text = "; ".join(f"{budget}: {', '.join(f'`{n}`' for n in names)}" for budget, names in sorted(found.items()))
    return [f"The rows stand under different budgets. {text}."]


def other_names(records: Sequence[Record]) -> list[str]:
    """Which names of the same images are not shown; see `sets.one_name`."""
    found = {r.data["name"]: r.data["also"] for r in records if r.data.get("also")}
    return [
        f"`{name}`: the same images were evaluated as {', '.join(f'`{n}`' for n in also)} too; all stand here."
        for name, also in sorted(found.items())
    ]


def runs(rows: Sequence[Row], records: Sequence[Record]) -> list[str]:
    """Single seeds, runs in another precision than they asked for, uncommitted code."""
    out = []
    able = [r for r in rows if r.method not in (*RAW, MAJORITY) and any(r.cells)]
    single = [r.label for r in able if any(c is not None and c.n == 1 for c in r.cells)]
    if single:
        names = "every row" if len(single) == len(able) else ", ".join(f"`{n}`" for n in single)
        out.append(f"One run (n = 1): {names}. Intervals are over test images; one run neither leads nor ties.")
    trained = {r.run: (r.config.get("precision"), r.compute["pretrain"].get("precision")) for r in records if r.run}
    other = sum(used not in (None, asked) for asked, used in trained.values())
    unknown = sum(used is None for _, used in trained.values())
    if other:
        out.append(f"{other} of {len(trained)} runs asked for bf16 and computed in fp32: their device has no bf16.")
    if unknown:
        out.append(f"The precision of {unknown} of {len(trained)} runs is unknown: older records do not say.")
    dirty = sum(bool(r.code["dirty"]) for r in records)
    if dirty:
        out.append(f"{dirty} of {len(records)} records were made by code with uncommitted changes.")
    return out


def left_out(left: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """The columns of untrained rows alone, in one line; `records`: all, among which labels tell columns apart."""
    labels = {c.key: c.label for c in grouping.columns(records)} if left else {}
    rows: dict[str, set[str]] = {}
    for r in left:
        rows.setdefault(labels[grouping.column_key(r)], set()).add(f"`{r.method}`")
    alike: dict[str, list[str]] = {}  # which rows -> their columns
    for label, names in sorted(rows.items()):
        alike.setdefault(", ".join(sorted(names)), []).append(label)
    told = (f"{first_few(columns, what='columns')} ({names})" for names, columns in alike.items())
    return [f"Left out, for no trained row has them: {'; '.join(told)}."] if left else []


def first_few(names: Sequence[str], most: int = 3, what: str = "files") -> str:
    """The records hold all of them."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more {what}" if more > 1 else f", {names[-1]}" if more == 1 else "")


def labels_seen(rows: Sequence[Row]) -> list[str]:
    """Who saw labels in pretraining without being called so."""
    names = [f"`{r.label}`" for r in rows if r.labels_seen and r.method != "supervised"]
    return [f"Pretrained with labels, and set apart as `supervised` is: {', '.join(names)}."] if names else []


def own_scorers(columns: Sequence[Column], records: Sequence[Record]) -> list[str]:
    """Columns whose numbers come from a protocol's own code, which saw the test labels."""
    own = {grouping.column_key(r) for r in records if grouping.own_scorer(r)}
    return [
        f"{c.label} brings its own scorer, which sees the test labels: its numbers are as honest as that code."
        for c in columns
        if c.key in own
    ]


def collapsed(records: Sequence[Record]) -> list[str]:
    """Of a row's runs, how many did."""
    runs = {r.run or r.id: bool(r.collapse["flag"]) for r in records}
    return [f"{sum(runs.values())} of {len(runs)} runs collapsed. The number is kept"] if any(runs.values()) else []


def skipped(records: Sequence[Record]) -> list[str]:
    """How many steps of a row's runs `--on-nan skip=N` let pass without an update."""
    spent = {r.run: r.compute["pretrain"] for r in records if r.run}.values()
    lost = sum(len(s.get("skipped_steps") or []) for s in spent)
    steps = sum(s.get("steps") or 0 for s in spent)
    return [f"{lost} of {steps:,} steps made no update: their loss or gradient was not finite"] if lost else []


def departs(records: Sequence[Record]) -> list[str]:
    """What its recipe changes of the paper, as the method's file says, and what the row changes of the recipe."""
    first = records[0]
    text = find.departs(first.method, first.recipe)
    return [f"leaves the paper: {text}" + own_settings(first)] if text else []


def own_settings(record: Record) -> str:
    """Objective and optimizer where they are not those of the recipe as it is now, of which its line speaks."""
    try:
        recipe = to_dict(find.recipe(record.method, record.recipe)())
    except Exception:  # a method of somebody's own that is not here, or half written: the table stands all the same
        return f" (said of the recipe `{record.recipe}`)"
    mine, its = (grouping.flat({k: c.get(k, {}) for k in ("objective", "optim")}) for c in (record.config, recipe))
    other = ", ".join(f"{k}={v}" for k, v in sorted(mine.items()) if k in its and its[k] != v)
    return f" (said of the recipe `{record.recipe}`; here {other})" if other else ""


# What has to be known of single rows: each function takes the records of one row and returns phrases, none where there
# is nothing to say. Rows of which the same is said share one line below the table.
FOOTNOTES: tuple[Callable[[Sequence[Record]], Iterable[str]], ...] = (collapsed, skipped, departs)


def footnotes(groups: Sequence[grouping.Group]) -> list[str]:
    """One line for each phrase of `FOOTNOTES`, with the rows that it holds for."""
    said: dict[str, list[str]] = {}
    for group in sorted(groups, key=lambda g: g.label):
        for source in FOOTNOTES:
            for text in source(group.records):
                said.setdefault(text, []).append(f"`{group.label}`")
    return [f"{', '.join(names)}: {text.removesuffix('.')}." for text, names in said.items()]


def seeds_alone(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Columns whose intervals leave the choice of test images out."""
    over = [{c.over for r in rows if (c := r.cells[i]) is not None} for i in range(len(columns))]
    alone = [column for column, found in zip(columns, over, strict=True) if "seeds" in found]
    why: dict[str, list[str]] = {}
    for column in alone:
        balanced = column.headline == BALANCED  # the bits are there, but a mean over classes needs more
        missing = "class per image" if balanced else "correctness per image"
        why.setdefault(missing, []).append(column.label)
    return [
        f"Intervals over seeds alone, since records hold no {missing}: {', '.join(names)}."
        for missing, names in sorted(why.items())
    ]


def repeats(records: Sequence[Record]) -> list[str]:
    """How far accuracies lie from those of the same runs trained before, on other hardware or by older code."""
    both = [(old.value, new.value) for old, new in grouping.repeats(records) if accuracy(new.headline)]
    if not both:
        return []
    gaps = [new - old for old, new in both]
    mean, size = sum(gaps) / len(gaps), sum(map(abs, gaps)) / len(gaps)
    return [
        f"{len(gaps)} accuracies are of runs trained again with the same config and seed: {mean:+.2f} points from "
        f"those before on average, {size:.2f} in size, {max(map(abs, gaps)):.1f} at most."
    ]


def optimism(rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Per protocol, what choosing on the test images would have added to what the table shows."""
    out = []
    for i, column in enumerate(columns):
        found = [
            (c.optimism, c.mean, r.label) for r in rows if (c := r.cells[i]) is not None and c.optimism is not None
        ]
        if found:
            gap, mean, name = max(found, key=lambda f: (f[0], f[2]))
            average = sum(f[0] for f in found) / len(found)
            out.append(
                f"In {column.label}, picking the best candidate on the test images would have added {average:.1f} "
                f"points on average and {gap:.1f} at most (`{name}`: {mean + gap:.1f} for {mean:.1f})."
            )
    return out


BESIDE = (  # of what, digits, and what answers that come from no encoder are called; the first is always there
    ("episodes", 1, {"random": "random actions", "straight": "a straight line", "oracle": "the oracle",
                     "true": "the same planner in the true world", "at_start": "solved at the start"}),
    ("clips", 2, {"zero": "nothing moves"}),
)  # fmt: skip


def without_encoder(columns: Sequence[Column], records: Sequence[Record]) -> list[str]:
    """What answers that come from no encoder reach on the test items of a column, as its records tell."""
    out: list[str] = []
    for column in columns:
        told: dict[str, None] = {}
        for r in (r for r in records if grouping.column_key(r) == column.key):
            for items, digits, named in BESIDE:
                values = {text: r.metrics.get(f"{r.headline}_{name}") for name, text in named.items()}
                if next(iter(values.values())) is None:
                    continue
                said = (f"{text}: not known" if v is None else f"{text} {v:.{digits}f}" for text, v in values.items())
                told[f"Beside {column.label}, on the same {items}: {'; '.join(said)}."] = None
        out += told
    return out
