"""Tables of docs/RESULTS.md about exact match on pairs, and what it cost."""

import math

import pandas as pd
from pandas import DataFrame

from benchmarks.report.frames import (
    FAMILY,
    Files,
    as_written,
    at_trained_size,
    frame,
    main_recipes,
    of_checkpoint,
    pair_rows,
)
from benchmarks.report.markdown import code, percent, table
from benchmarks.report.published import PAIRS, SIZES
from benchmarks.rows import CurvePoint
from training.tasks import KeyValueTask

STEPS = (1, 2, 5)
"Write steps of the published GradMem figures."
SHOWN = (1, 2, 3, 4, 5, 6, 8, 10, 20, "auto")
"Write steps that are shown side by side."
LADDER = (4, 8, 16, 32, 48, 64, 96)
MILESTONES = (8, 16, 32, 64, 96)
"Sizes whose first evaluation at LEARNED is reported."
LEARNED = 0.99
SPREAD_SIZE = 8
"Size at which several training seeds are compared."
THRESHOLDS = (0.5, 0.9, LEARNED)
"Exact match whose cost is reported."
BITS_PER_VALUE = 2 * math.log2(62)
"Information of a value: two symbols out of letters and digits."


def exact_match(files: Files, checkpoint: str | None = None) -> str:
    """Return exact match by size and write steps; of one checkpoint, as written and for fixed K."""
    if checkpoint is not None:
        rows = as_written(pair_rows(of_checkpoint(files, checkpoint)))
        return _grid(rows[rows.k.notna()])
    return _grid(pair_rows(files), "checkpoint", "trained_seed", "fingerprint", "blob")


def ladder(files: Files) -> str:
    """Compare the best GradMem checkpoint at each size with what was published."""
    rows = as_written(pair_rows(files))
    ours = rows[(rows.writer == "gradmem") & rows["size"].isin(LADDER)]
    if ours.empty:
        return ""
    known = _published().xs("gradmem")
    found = known.rename("published, K = {}".format).T.reindex([*LADDER])
    for head, some in ((f"K ≤ {max(STEPS)}", ours[ours.k <= max(STEPS)]), ("any K", ours)):
        order = ["exact_match", "steps_taken", "checkpoint"]
        ranked = some.sort_values(order, ascending=[False, True, True])
        best = ranked.drop_duplicates("size").set_index("size")
        found[f"ours, {head}"] = best.exact_match.map(percent)
        found[f"by, {head}"] = best.checkpoint.map(code) + ", K = " + best.write_steps.map(str)
    return table(found.rename_axis("size").reset_index())


def baselines(files: Files) -> str:
    """Compare writers at the published sizes: what was published, and ours.

    A row of ours is a recipe, the mean over its training seeds, at that published K which is best
    at the size that it was trained for.
    """
    rows = main_recipes(as_written(pair_rows(files)))
    rows = rows[rows.k.isin(STEPS)]
    if rows.empty:
        return ""
    ranks = at_trained_size(rows).pivot_table(index=FAMILY, columns="k", values="exact_match")
    best = ranks.idxmax(axis=1).rename("best")
    rows = rows.join(best, on=FAMILY)
    rows = rows[(rows.k == rows.best) & rows["size"].isin(SIZES)]
    by = [*FAMILY, "write_steps"]
    about = rows.groupby(by).agg(
        seeds=("trained_seed", "nunique"),
        trained_contexts=("trained_contexts", "mean"),
        state_floats=("state_floats", "max"),
    )
    means = rows.pivot_table(index=by, columns="size", values="exact_match")
    ours = about.round().join(means.map(percent, na_action="ignore")).reset_index()
    ours["source"] = ours.trained_recipe.map(code)
    published = _published().assign(source="published").reset_index()
    lines = pd.concat([published, ours])
    heads = ["writer", "write_steps", "source", "seeds", "trained_contexts", "state_floats"]
    return table(lines[[*heads, *SIZES]].rename(columns={size: f"{size} pairs" for size in SIZES}))


def seeds(files: Files) -> str:
    """Return mean and range over training seeds at one size, of recipes that learned it."""
    rows = as_written(pair_rows(files))
    rows = rows[rows["size"] == SPREAD_SIZE]
    groups = rows.groupby([*FAMILY, "write_steps"]).exact_match
    found = groups.agg(seeds="count", mean="mean", lowest="min", highest="max")
    found = found[(found.seeds > 1) & (found["mean"] > THRESHOLDS[0])]
    shares = ["mean", "lowest", "highest"]
    found[shares] = found[shares].map(percent)
    return table(found.reset_index())


def write_steps(files: Files) -> str:
    """Return exact match by write steps of recipes at the size of their training and beyond.

    Behind the automatic stop stands its mean K.
    """
    rows = main_recipes(as_written(pair_rows(files)))
    rows = rows[(rows.writer == "gradmem") & rows.write_steps.isin(SHOWN)]
    least = at_trained_size(rows).groupby("fingerprint")["size"].first().rename("least")
    rows = rows.join(least, on="fingerprint")
    return _grid(rows[rows["size"] >= rows.least], "checkpoint", "trained_seed")


def ablations(files: Files) -> str:
    """Compare recipes called `BASE.OPTION` with `BASE`; in brackets the change in points."""
    rows = as_written(pair_rows(files)).dropna(subset=["trained_recipe", "k"])
    rows = rows[rows["size"] >= SPREAD_SIZE]
    if rows.empty:
        return ""
    rows["base"] = rows.trained_recipe.str.split(".").str[0]
    recipes = rows.groupby("base").trained_recipe.transform("nunique")
    by = ["size", "base", "trained_recipe"]
    means = rows[recipes > 1].pivot_table(index=by, columns="k", values="exact_match")
    is_base = means.index.get_level_values("base") == means.index.get_level_values(by[-1])
    only = means.copy()
    only[~is_base] = float("nan")
    changes = means - only.groupby(by[:2]).transform("max")
    texts = (100 * changes).map(" ({:+.1f})".format)
    texts[is_base] = ""
    found = (means.map(percent) + texts)[changes.notna()]
    found = found.dropna(how="all").rename(columns="K = {:.0f}".format)
    return table(found.reset_index().drop(columns="base"))


def bits(files: Files) -> str:
    """Return the information that each checkpoint stores with each kind of blob, at its most."""
    rows = pair_rows(files)
    rows["bits stored"] = rows["size"] * rows.exact_match * BITS_PER_VALUE
    rows["bits per float"] = (rows["bits stored"] / rows.state_floats).map("{:.3f}".format)
    rows["bits per byte"] = (rows["bits stored"] / rows.state_bytes).map("{:.3f}".format)
    rows = rows[rows.blob.isin(["float32", "float16", "int8"])]
    ranked = rows.sort_values(["bits stored", "steps_taken"], ascending=[False, True])
    best = ranked.drop_duplicates(["fingerprint", "blob"])
    best = best.sort_values(["checkpoint", "state_bytes", "blob"], ascending=[True, False, True])
    best["bits stored"] = best["bits stored"].map("{:.1f}".format)
    columns = ["checkpoint", "blob", "size", "write_steps", "exact_match", "bits stored"]
    return table(best[[*columns, "state_bytes", "bits per float", "bits per byte"]])


def cost(files: Files, reached: str = "0") -> str:
    """Return what training took until an evaluation first reached a threshold, if ever.

    A row is a recipe at the largest size and K that it evaluated, the median over its seeds.

    Args:
        files: Results.
        reached: Exact match below which a recipe is left out.
    """
    rows = frame(CurvePoint, files)
    rows = rows[rows.task == KeyValueTask.name].sort_values(["contexts", "seconds"])
    by = ["trained_writer", "trained_recipe"]
    for column in ("size", "write_steps"):
        rows = rows[rows[column] == rows.groupby(by)[column].transform("max")]
    lines = [
        points.iloc[0][[*by, "size", "write_steps"]].to_dict()
        | {"seeds": points.trained_seed.nunique()}
        | {f"≥ {threshold:.0%}": _reached(points, threshold) for threshold in THRESHOLDS}
        | {"highest": percent(points.exact_match.max())}
        for _, points in rows.groupby(by)
        if points.exact_match.max() >= float(reached)
    ]
    return table(DataFrame(lines))


def milestones(files: Files) -> str:
    """Return what training took until any run first reached LEARNED at each size, if ever."""
    found = find_milestones(files)
    if found.empty:
        return ""
    more = found.reached.map({True: "", False: "> "})
    lines = DataFrame(
        {
            "size": found["size"],
            f"contexts to {LEARNED:.0%}": more + found.contexts.map("{:,}".format),
            "minutes": more + (found.seconds / 60).map("{:.0f}".format),
            "highest": found.highest.map(percent),
            "trained_recipe": found.trained_recipe.map(code),
            "write_steps": found.write_steps,
        }
    )
    return table(lines.rename(columns={"trained_recipe": "by"}))


def find_milestones(files: Files) -> DataFrame:
    """Return the evaluation of any GradMem run that first reached LEARNED at each of MILESTONES.

    First is that after the fewest contexts, earlier runs included. Where none was as good, the row
    is the best evaluation, `reached` is False, and contexts and seconds are those of its run's end.
    """
    rows = frame(CurvePoint, files)
    rows = rows[(rows.task == KeyValueTask.name) & (rows.trained_writer == "gradmem")]
    rows = rows[rows["size"].isin(MILESTONES) & (rows.write_steps <= max(STEPS))]
    rows["highest"] = rows.groupby("size").exact_match.transform("max")
    rows["reached"] = rows.exact_match >= LEARNED
    firsts = rows[rows.reached].sort_values("contexts", kind="stable")
    best = rows.sort_values("exact_match", ascending=False, kind="stable")
    best = best.assign(contexts=best.trained_contexts, seconds=best.trained_seconds)
    found = pd.concat([firsts, best]).drop_duplicates("size")
    return found.sort_values("size").reset_index(drop=True)


def _grid(rows: DataFrame, *by: str) -> str:
    """Return exact match, a line for each size and a column for each K."""
    rows = rows.assign(cell=rows.exact_match.map(percent))
    stopped = rows.steps_taken.map(" ({:.1f})".format).where(rows.k.isna(), "")
    rows["cell"] += stopped
    found = rows.pivot(index=[*by, "size"], columns="write_steps", values="cell")
    steps = sorted(found.columns, key=lambda k: math.inf if k == "auto" else k)
    found = found[steps].rename(columns=lambda k: k if k == "auto" else f"K = {k}")
    contexts = (
        rows.groupby([*by, "size"])
        .contexts.unique()
        .map(lambda counts: " / ".join(map(str, sorted(counts))))
    )
    found.insert(0, "contexts", contexts)
    return table(found.reset_index().drop(columns="fingerprint", errors="ignore"))


def _reached(points: DataFrame, threshold: float) -> str:
    """Return contexts and minutes of the first evaluation as good, or of all that were not."""
    firsts = points[points.exact_match >= threshold].drop_duplicates("trained_seed")
    middle = points.trained_seed.nunique() // 2
    never = middle >= len(firsts)
    point = points.iloc[-1] if never else firsts.iloc[middle]
    return f"{'> ' * never}{point.contexts:,} ({point.seconds / 60:.0f} min)"


def _published() -> DataFrame:
    """Return published figures as texts, by writer, write steps and size."""
    lines = [dict(zip(SIZES, shares, strict=False)) for shares in PAIRS.values()]
    names = pd.MultiIndex.from_tuples(PAIRS, names=["writer", "write_steps"])
    found = DataFrame(lines, index=names)
    return found.map("{:.1f}".format, na_action="ignore")


PRINTED = (exact_match, cost)
