"""training.png: the curves of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asr import files


def draw_training(history: list[dict[str, Any]], path: Path) -> None:
    """Draws from the lines of metrics.jsonl: loss, dev scores, blank rate or else learning rate, gradient norm."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    steps = [line for line in history if line["kind"] == "step"]
    epochs = [line for line in history if line["kind"] == "epoch"]
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(path.resolve().parent.name, fontsize="x-large", parse_math=False)
    (loss, dev), (extra, gradient) = figure.subplots(2, 2)

    def curve(axes: Any, lines: list[dict[str, Any]], key: str, label: str, **style: Any) -> None:
        drawn = [line for line in lines if line.get(key) is not None]
        if drawn:
            axes.plot([line["step"] for line in drawn], [line[key] for line in drawn], label=label, **style)

    marker = {"marker": "."} if len(epochs) < 30 else {}
    curve(loss, steps, "loss", "train, each 10 steps", alpha=0.3, color="tab:blue")
    curve(loss, epochs, "train_loss", "train, epoch", color="tab:blue", **marker)
    curve(loss, epochs, "dev_loss", "dev", color="tab:orange", **marker)
    loss.set(title="loss", ylabel="nats per label", yscale="log")
    curve(dev, epochs, "dev_wer", "WER", color="tab:red", **marker)
    curve(dev, epochs, "dev_cer", "CER", color="tab:purple", **marker)
    curve(dev, epochs, "dev_perplexity", "perplexity", color="tab:red", **marker)
    if any("dev_perplexity" in line for line in epochs):
        dev.set(title="dev perplexity", ylabel="per word", yscale="log")
    else:
        dev.set(title="dev error rate", ylim=(0, None))
        dev.yaxis.set_major_formatter(PercentFormatter(1.0))
    if any("blank_rate" in line for line in steps):
        curve(extra, steps, "blank_rate", "frames that are blank", color="tab:gray")
        extra.set(title="blank rate", xlabel="step", ylim=(0, 1.02))
        extra.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        curve(extra, steps, "learning_rate", "learning rate", color="tab:gray")
        extra.set(title="learning rate", xlabel="step", ylim=(0, None))
    curve(gradient, steps, "gradient_norm", "before clipping", color="tab:green", alpha=0.6)
    gradient.set(title="gradient norm", xlabel="step", yscale="log")
    for axes in (loss, dev, extra, gradient):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    with files.replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
