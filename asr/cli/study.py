"""asr study."""

from __future__ import annotations

from pathlib import Path

import click

from asr.cli.options import FOLDER, data_option, device_option, progress_bar, set_option, threads_option
from asr.cli.terminal import console, say


@click.command()
@click.argument("recipe", type=FOLDER)
@click.option(
    "--cells",
    default="feedforward,rnn-tanh,rnn-relu,gru,lstm,bilstm",
    show_default=True,
    metavar="LIST",
    help="Also: birnn-tanh, birnn-relu, bigru, and irnn, a ReLU RNN that begins from the identity.",
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Trainings of each cell.")
@click.option("--out", type=FOLDER, metavar="DIR", help="Folder of the study; default studies/RECIPE.")
@click.option(
    "--split", type=click.Choice(["dev", "test"]), help="Set to score; default test where the recipe has one."
)
@data_option
@set_option
@device_option
@threads_option
def study(
    recipe: Path,
    cells: str,
    seeds: int,
    out: Path | None,
    split: str | None,
    data: str | None,
    overrides: tuple[str, ...],
    device: str,
) -> None:
    """Train RECIPE with one recurrent cell after another at equal size, and show what each buys and why.

    Writes DIR/study.html and DIR/study.json. A study that is stopped goes on when the command is given again.
    """
    from rich.progress import MofNCompleteColumn, TextColumn
    from rich.table import Table

    from asr.data.corpora import name_of, sources_of
    from asr.files import data_root
    from asr.recipe.reading import load_recipe
    from asr.report.pages import public_name
    from asr.study import page, runs
    from asr.study.cells import parse_cells

    settings = load_recipe(recipe, overrides)
    root = data_root(data, settings.data)
    directory = out or Path("studies") / recipe.stem
    split = split or ("test" if settings.corpora.test else "dev")
    sources = sources_of(settings, split)
    plans = runs.plan_runs(settings.model_copy(update={"data": str(root)}), parse_cells(cells), seeds, directory)

    diverged = []
    for number, plan in enumerate(plans, start=1):
        units = plan.recipe.encoder.hidden
        say(f"{number} of {len(plans)}: {plan.cell}, {units} units, seed {plan.seed}", err=True)
        diverged.append(not runs.train_run(plan, root=root, device=device))
    utterances = runs.longest_utterances(plans[0], sources, root)
    with progress_bar(TextColumn("looking inside {task.description}"), MofNCompleteColumn()) as progress:
        task = progress.add_task("", total=len(plans), completed=-1)
        contestants = runs.judge(
            plans,
            diverged,
            sources,
            utterances,
            root=root,
            device=device,
            advance=lambda plan: progress.update(task, advance=1, description=f"{plan.cell}, seed {plan.seed}"),
        )
    page.write_numbers(directory / "study.json", contestants)
    names = ", ".join(public_name(name_of(source)) for source in sources)
    page.write_page(
        directory / "study.html",
        f"{recipe.stem}: what recurrence buys",
        contestants,
        utterances[-1],
        facts=[
            f"Each cell with {seeds} {'seeds' if seeds > 1 else 'seed'}, greedy decoding, "
            f"scored on {names}{page.size(contestants)}."
        ],
    )
    shown = Table(*page.COLUMNS[: page.FOR_TERMINALS], box=None, pad_edge=False)
    for row in page.table(contestants):
        shown.add_row(*row[: page.FOR_TERMINALS])
    printer = console()
    printer.print(shown)
    for sentence in page.findings(contestants):
        printer.print(sentence)
    printer.print(f"{directory}/study.html")
