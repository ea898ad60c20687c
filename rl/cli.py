"""The `synthpert` command. Heavy imports stay inside the functions, so that `--help` answers at once."""

import importlib
import os
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

import typer
from typer.core import TyperCommand

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Train a model to predict knockdown effects (SFT, then GRPO), and report what it learnt.",
)
data_app = typer.Typer(no_args_is_help=True, help="Fetch labels that others published. Check and count any labels.")
traces_app = typer.Typer(no_args_is_help=True, help="Make, import, filter and check the traces that SFT learns from.")
app.add_typer(data_app, name="data")
app.add_typer(traces_app, name="traces")
rewards_app = typer.Typer(no_args_is_help=True, help="Try out rewards without a GPU.")
app.add_typer(rewards_app, name="rewards")

INTERRUPTED: Final = 130
# By command: the dataclasses of its configuration's keys, and of TRL's that it also takes, with their page.
_CONFIGURED: Final = {
    "generate": (("sft.teacher.generate:TraceArguments", "sft.teacher.arguments:EndpointArguments"), ""),
    "filter": (("sft.filters.run:FilterArguments",), ""),
    "sft": (("sft.train:SFTArguments",), "SFTConfig and ModelConfig: https://huggingface.co/docs/trl/sft_trainer"),
    "grpo": (("rl.train:GRPOArguments",), "GRPOConfig and ModelConfig: https://huggingface.co/docs/trl/grpo_trainer"),
    "eval": (("benchmarks.evaluation.run:EvalArguments",), ""),
    "calibrate": (("benchmarks.evaluation.run:EvalArguments",), ""),
}


class _Configured(TyperCommand):
    """A command with a configuration: its options include every key of it, and its help lists them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = _PASS_ON
        super().__init__(*args, **kwargs)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from benchmarks.keys import describe_keys

        classes, theirs = _CONFIGURED[str(self.name)]
        found = []
        for source in classes:
            module, _, name = source.partition(":")
            found += describe_keys(getattr(importlib.import_module(module), name))
        width = max(len(name) for name, _ in found)
        columns = max(shutil.get_terminal_size().columns, 60)
        typer.echo("Keys of the YAML file, each also an option (--key value):\n")
        for name, text in found:
            indent = " " * (width + 4)
            typer.echo(textwrap.fill(text, columns, initial_indent=f"  {name:{width}}  ", subsequent_indent=indent))
        if theirs:
            typer.echo(f"\nIt also takes the keys of TRL's {theirs}")


_PASS_ON: Final = {"allow_extra_args": True, "ignore_unknown_options": True}
_SAMPLE_HELP = (
    "Labels: a folder, a table (CSV, TSV, Parquet), a YAML file that describes one, or `sample`. Default: what "
    "SYNTHPERT_DATA names, else what `data fetch` wrote."
)
_CONFIG_HELP = "YAML file. Every key is also an option (--key value). --out is where the result goes."
ConfigOption = Annotated[Path, typer.Option("--config", help=_CONFIG_HELP)]
DataOption = Annotated[str | None, typer.Option("--data", help=_SAMPLE_HELP)]
_REWARDS_HELP = (
    "Labels, as for the other commands. Default: those of the configuration or run, else the full labels if they are "
    "there, else the sample."
)
RewardsDataOption = Annotated[str | None, typer.Option("--data", help=_REWARDS_HELP)]
_EMBEDDINGS_HELP = "Parquet or CSV file of gene embeddings. Adds a regression on them as a baseline."
EmbeddingsOption = Annotated[Path | None, typer.Option("--embeddings", help=_EMBEDDINGS_HELP)]
_EVIDENCE_FROM_HELP = (
    "Labels of another screen, in the words of --data. Baselines for unseen genes and perturbations use all of them."
)
_ORTHOLOGS_HELP = (
    "What our symbols are called in that screen: a table with the columns from and to, or `upper`: ours in upper case. "
    "Default: the same."
)
EvidenceFromOption = Annotated[str | None, typer.Option("--evidence_from", help=_EVIDENCE_FROM_HELP)]
OrthologsOption = Annotated[str | None, typer.Option("--orthologs", help=_ORTHOLOGS_HELP)]
_PROMPTS_HELP = (
    "theirs: keep the prompts of the file. ours: build them with our template; keys of a prompt, such as "
    "--evidence 3, can follow."
)
_SPLIT_HELP = (
    "official, or what to keep out of training: holdout:LINE, holdout:perturbations, holdout:genes or holdout:both. "
    "The last three draw a fifth of the symbols; holdout:genes,share=0.3,seed=1 draws otherwise, and "
    "holdout:both,fold=1/5 takes the first of five folds."
)
_TRACES_SPLIT_HELP = "Split to hold the traces against. Default: the split of the traces."
_MAP_HELP = "OURS=THEIRS: name of our column in the file, such as pert=knockdown. Can be repeated."
_LABEL_HELP = "THEIRS=OURS: meaning of a word in the file, such as up=upregulated. Can be repeated."
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write.")]


@data_app.command("fetch")
def data_fetch(
    name: Annotated[
        Literal["perturbqa", "k562_set", "bioreasoning"], typer.Argument(help="Which labels.")
    ] = "perturbqa",
    source: Annotated[
        str | None, typer.Option(help="Folder or URL of the files. Default: their official repository.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: the folder that the other commands read.")
    ] = None,
) -> None:
    """Fetch PerturbQA's label files, those of its gene sets or those of the BioReasoning Challenge, as published."""
    from benchmarks.screens import bioreasoning, k562_set
    from benchmarks.screens.labels import data_dir, fetch, load_labels

    if name == bioreasoning.NAME:
        folder = bioreasoning.fetch(source, out)
        labels = load_labels(folder / bioreasoning.DESCRIPTION)
        typer.echo(bioreasoning.LICENCE)
    elif name == k562_set.NAME:
        folder = k562_set.FILES.fetch(source, data_dir() if out is None else out)
        labels = load_labels(folder / k562_set.NAME)
    else:
        folder = fetch(source, out)
        labels = load_labels(folder)
    typer.echo(f"{folder}: {len(labels):,} items; every file is as published")


@data_app.command("verify")
def data_verify(data: DataOption = None) -> None:
    """Check every row, and of PerturbQA the SHA-256 of every file."""
    from benchmarks.evidence.corpus import Corpus
    from benchmarks.screens.labels import data_source, load_screen

    screen, labels = load_screen(data)
    corpus = Corpus(data_source(data), "official", labels, screen)
    _show_notes(screen)
    typer.echo(f"{corpus.source}: {len(corpus.labels):,} items, no fault found; SHA-256 of the items: {corpus.digest}")


@data_app.command("stats")
def data_stats(
    data: DataOption = None,
    split: Annotated[str, typer.Option(help=_SPLIT_HELP)] = "official",
    columns: Annotated[list[str] | None, typer.Option("--map", help=_MAP_HELP)] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", help=_LABEL_HELP)] = None,
    evidence_from: EvidenceFromOption = None,
    orthologs: OrthologsOption = None,
) -> None:
    """Count items and labels per cell line, and the test items that shortcuts can answer."""
    from benchmarks.evidence.corpus import open_corpus
    from benchmarks.evidence.reach import shortcut_reach
    from benchmarks.evidence.reference import open_reference
    from benchmarks.screens.labels import stats

    described = _described(data, _pairs(columns, "--map"), _pairs(labels, "--label"))
    corpus = open_corpus(described, split, open_reference(evidence_from, orthologs))
    _show_notes(corpus.screen)
    typer.echo(stats(corpus.labels).to_string())
    if corpus.left_out:
        typer.echo(f"rows left out, since only one of perturbation and gene is held out: {corpus.left_out:,}")
    if corpus.test.empty and len(corpus.unlabelled):
        typer.echo(f"test items without labels, which can be predicted but not scored: {len(corpus.unlabelled):,}")
    elif corpus.test.empty:
        typer.echo("no test items, since the column split calls no row test; --split can hold some out")
    elif not corpus.is_sample:
        typer.echo(
            f"\nTest items that a shortcut knows something about (majority class: is right about):\n\n"
            f"{shortcut_reach(corpus).to_string()}"
        )


def _show_notes(screen: Any) -> None:
    """Print what was noticed in labels, and which columns of their file were not read."""
    for note in [*screen.notes, screen.unread]:
        if note:
            typer.echo(note)


def _described(data: str | None, columns: dict[str, str], labels: dict[str, str]) -> Any:
    """Return a source of labels: a table whose columns and words options explain, or `data` as it is."""
    from benchmarks.screens.table import DESCRIPTIONS, LabelTable, is_table
    from rewards import InputError

    if not columns and not labels:
        return data
    if data is None or not is_table(data) or Path(data).suffix.lower() in DESCRIPTIONS:
        raise InputError("--map and --label explain a table; give it as --data FILE, or write them into its YAML file")
    return LabelTable(data, columns=columns, labels=labels)


@traces_app.command("generate", cls=_Configured)
def traces_generate(context: typer.Context, config: ConfigOption) -> None:
    """Write traces with a model behind an OpenAI-compatible endpoint, or with the offline template teacher."""
    from benchmarks.config import parse_config
    from sft.teacher.arguments import EndpointArguments
    from sft.teacher.generate import TraceArguments, generate_traces

    arguments, endpoint = parse_config(config, context.args, (TraceArguments, EndpointArguments))
    path, rows = generate_traces(arguments, endpoint, lambda line: typer.echo(line, err=True))
    typer.echo(f"{path}: wrote {rows} traces")


@traces_app.command("import", context_settings=_PASS_ON)
def traces_import(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="A .csv, .jsonl or .parquet file, or the id of a Hugging Face data set.")
    ],
    out: Annotated[Path, typer.Option(help="JSONL file to write. Refused rows go to a file beside it.")],
    columns: Annotated[list[str] | None, typer.Option("--map", help=_MAP_HELP)] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", help=_LABEL_HELP)] = None,
    prompts: Annotated[str, typer.Option(help=_PROMPTS_HELP)] = "theirs",
    data: DataOption = None,
    split: Annotated[str, typer.Option(help=_SPLIT_HELP)] = "official",
    teacher: Annotated[str, typer.Option(help="Name of the teacher, for rows that do not say.")] = "imported",
    mode: Annotated[
        str,
        typer.Option(
            help="blind or rationalize, for rows that do not say. rationalize: the teacher was given the label."
        ),
    ] = "blind",
    dataset_split: Annotated[str | None, typer.Option(help="Split of a Hugging Face data set. Default: train.")] = None,
) -> None:
    """Import traces from SynthPert's CSV, from JSONL or Parquet with messages, or from a data set."""
    from benchmarks.evidence.prompts import PromptConfig, open_prompt_corpus
    from sft.import_traces import import_traces

    ours = _own_prompts(prompts, context.args)
    corpus = open_prompt_corpus(data, split, ours or PromptConfig())
    done = import_traces(
        source, out, corpus, columns=_pairs(columns, "--map"), labels=_pairs(labels, "--label"),
        prompts=ours, teacher=teacher, mode=mode, dataset_split=dataset_split,
    )  # fmt: skip
    typer.echo(f"{done.path}: imported {done.kept} of {done.rows} rows")
    if done.reasons:
        typer.echo(f"{done.rejects}: {done.rows - done.kept} refused rows")
        for reason, count in done.reasons.items():
            typer.echo(f"  {count}  {reason}")


@traces_app.command("filter", cls=_Configured)
def traces_filter(context: typer.Context, config: ConfigOption) -> None:
    """Keep the traces that pass a list of steps. Prints what each step dropped."""
    from sft.filters.run import run_filter

    path, funnel = run_filter(config, context.args)
    typer.echo(f"{path}: kept {funnel['kept']} of {funnel['rows']} traces")
    for step in funnel["steps"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in list(step["reasons"].items())[:4])
        typer.echo(f"  {step['step']:10} {step['left']:>8}  -{step['dropped']}{f'  ({reasons})' if reasons else ''}")


@traces_app.command("stats")
def traces_stats(
    traces: Annotated[Path, typer.Argument(help="All traces, as generated or imported.")],
    used: Annotated[Path | None, typer.Option(help="The filtered traces that SFT learns from.")] = None,
    accept: Annotated[
        str, typer.Option(help="Verdicts of the critic that count as accepted, with commas between.")
    ] = "excellent,good",
    data: DataOption = None,
    split: Annotated[str | None, typer.Option(help=_TRACES_SPLIT_HELP)] = None,
) -> None:
    """Print how many traces each step left, as shares of the training split, and the teacher's accuracy."""
    from sft.audit.audit import corpus_of
    from sft.filters.funnel import format_funnel, measure_funnel
    from sft.traces import iter_traces

    first, _, _ = next(iter(iter_traces(traces)))
    corpus = corpus_of(first.protocol, data, split)
    verdicts = [word.strip() for word in accept.split(",")]
    typer.echo(format_funnel(measure_funnel(traces, corpus, used, verdicts)))


@traces_app.command("audit")
def traces_audit(
    traces: Annotated[Path, typer.Argument(help="The traces that SFT learns from.")],
    data: DataOption = None,
    split: Annotated[str | None, typer.Option(help=_TRACES_SPLIT_HELP)] = None,
) -> None:
    """Check that the traces hold nothing of the test split. Exit code 1 if they do."""
    from sft.audit.audit import audit_traces, corpus_of
    from sft.traces import iter_traces

    first, _, _ = next(iter(iter_traces(traces)))
    audit = audit_traces((trace for trace, _, _ in iter_traces(traces)), corpus_of(first.protocol, data, split))
    for name, one in audit.findings.items():
        typer.echo(f"{'LEAK' if one.failed else 'ok  '}  {one.claim}: {one}")
        for example in one.examples:
            typer.echo(f"        {name}: {example}")
    audit.require_clean(str(traces))


@app.command("sft", cls=_Configured)
def sft_command(context: typer.Context, config: ConfigOption) -> None:
    """Stage one: fine-tune a LoRA adapter on traces. Run it again to continue a stopped run."""
    from sft.train import train

    run = train(config, context.args)
    _show_manifest(run, ("steps", "tokens", "trained_tokens", "first_loss", "last_loss", "seconds"))


@app.command("grpo", cls=_Configured)
def grpo_command(
    context: typer.Context,
    config: ConfigOption,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Sample each prompt, print what GRPO can learn from and what the run costs, and stop."
        ),
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(help="With --dry-run: completions of each prompt. A multiple of num_generations, its default."),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(help="With --dry-run: CSV file to write the prompts to that can teach, for --train_on."),
    ] = None,
) -> None:
    """Stage two: GRPO from the SFT adapter. Run it again to continue a stopped run."""
    if dry_run:
        _dry_run(config, context.args, samples, write)
        return
    if samples is not None or write is not None:
        raise typer.BadParameter("--samples and --write go with --dry-run")

    from rl.train import train

    run = train(config, context.args)
    _show_manifest(
        run, ("steps", "rollouts", "first_kl", "mean_abs_logprob_difference", "first_reward", "last_reward", "seconds")
    )
    _show_rewards(run)


def _show_rewards(run: Path) -> None:
    """Print the mean score of each reward of a GRPO run, and the command that applies other rewards to its rollouts."""
    from benchmarks.runs import is_main_process, read_manifest

    if not is_main_process():
        return
    for name, mean in read_manifest(run).get("mean_scores", {}).items():
        typer.echo(f"  mean score of {name}: {_number(mean['first'])} at first, {_number(mean['last'])} at last")
    typer.echo("to see what other rewards would have paid (REWARDS: a configuration, a name, or file.py:function):")
    typer.echo(f"  synthpert rewards replay REWARDS --rollouts {shlex.quote(str(run))}")


def _dry_run(config: Path, words: list[str], samples: int | None, write: Path | None) -> None:
    """Make a dry run of GRPO, print its findings, and write the prompts that can teach."""
    from rl.chosen import check_target
    from rl.preflight.run import dry_run

    if write is not None:
        check_target(write)
    found = dry_run(config, words, samples=samples)
    for line in found.lines():
        typer.echo(line)
    if write is not None:
        typer.echo(
            f"{write}: wrote {found.write(write)} prompts; train on them with --train_on {write} --train_items 0"
        )


@app.command("eval", cls=_Configured)
def eval_command(context: typer.Context, config: ConfigOption) -> None:
    """Evaluate a model on test items. Run it again to continue a stopped run."""
    from benchmarks.config import parse_config
    from benchmarks.evaluation.run import EvalArguments, run_evaluation

    (arguments,) = parse_config(config, context.args, (EvalArguments,))

    shown = ("rows", "statuses", "errors", "prompt_tokens", "completion_tokens", "seconds")
    _show_manifest(run_evaluation(arguments), shown)


@app.command("calibrate", cls=_Configured)
def calibrate_command(context: typer.Context, config: ConfigOption) -> None:
    """Fit temperatures on training perturbations that an adapter has not seen, for `eval --calibration temperature`.

    Keys: those of `eval`. --out is a run folder of its own.
    """
    from benchmarks.config import parse_config
    from benchmarks.evaluation.calibrate import run_calibration
    from benchmarks.evaluation.run import EvalArguments

    (arguments,) = parse_config(config, context.args, (EvalArguments,))
    path, found = run_calibration(arguments)
    typer.echo(f"{path}: temperature {found.de:.2f} of de, {found.dir:.2f} of dir, from {found.items:,} items")
    typer.echo(f"log loss on these items: {found.log_loss['before']:.3f} before, {found.log_loss['after']:.3f} after")


@app.command("baselines")
def baselines_command(
    out: OutOption,
    data: DataOption = None,
    split: Annotated[str, typer.Option(help=_SPLIT_HELP)] = "official",
    embeddings: EmbeddingsOption = None,
    evidence_from: EvidenceFromOption = None,
    orthologs: OrthologsOption = None,
) -> None:
    """Score the baselines on every test item. They use training labels and no language model."""
    from benchmarks.evaluation.baselines import lacking_words
    from benchmarks.evidence.corpus import open_corpus
    from benchmarks.evidence.reference import open_reference
    from benchmarks.report.collect import report_baselines

    corpus = open_corpus(data, split, open_reference(evidence_from, orthologs))
    page = report_baselines(corpus, out, command=_command(), embeddings=embeddings)
    _show_scores(page)
    for line in lacking_words(corpus):
        typer.echo(line)
    typer.echo(f"report: {page}")


def _show_scores(page: Path) -> None:
    """Print what says most of the shortcuts, from the JSON beside a report's page."""
    import json

    systems = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["systems"]
    shown = (  # as in the tables of docs/baselines.md
        ("three_class", "accuracy"),
        ("three_class", "brier"),
        ("de", "de_auroc"),
        ("de", "de_per_gene_auroc"),
        ("dir", "dir_per_gene_auroc"),
        ("three_class", "challenge_score"),
    )
    for name, system in systems.items():
        for task, metric in shown:
            if metric not in system["metrics"][task]["all"]:  # only one screen has it
                continue
            cells = [f"{line} {_number(values[metric]['value'])}" for line, values in system["metrics"][task].items()]
            typer.echo(f"{name:34} {task:11} {metric:20} {'  '.join(cells)}")


@app.command("report")
def report_command(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders of evaluations, and of the training runs to describe.")
    ],
    out: OutOption,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "SynthPert evaluation",
    common: Annotated[
        bool,
        typer.Option(
            "--common", help="Score only the items that all systems have. Without it, other items are an error."
        ),
    ] = False,
    pairwise: Annotated[
        bool,
        typer.Option(
            "--pairwise", help="Score each system on its own items, and compare each pair on the items that both have."
        ),
    ] = False,
    embeddings: EmbeddingsOption = None,
    evidence_from: EvidenceFromOption = None,
    orthologs: OrthologsOption = None,
    notes: Annotated[
        list[str] | None, typer.Option("--note", help="Sentence to show on the page. Can be repeated.")
    ] = None,
) -> None:
    """Write a report: metrics with intervals, baselines, paired differences. Runs of one name are one system."""
    from benchmarks.report.collect import report_runs

    page = report_runs(
        runs,
        out,
        title=title,
        command=_command(),
        common=common,
        pairwise=pairwise,
        embeddings=embeddings,
        evidence_from=evidence_from,
        orthologs=orthologs,
        notes=notes or (),
    )
    typer.echo(f"report: {page}")


@app.command("import")
def import_command(
    files: Annotated[
        list[str], typer.Argument(help="CSV, TSV, JSONL or Parquet files. LINE=FILE: a file of one cell line.")
    ],
    name: Annotated[str, typer.Option(help="Name of the system in reports.")],
    out: Annotated[Path, typer.Option(help="Run folder to write. `report` reads it.")],
    from_expression: Annotated[
        bool,
        typer.Option(
            "--from-expression",
            help="The files, also .h5ad, hold predicted changes of expression. See docs/systems.md.",
        ),
    ] = False,
    control: Annotated[
        str | None,
        typer.Option(
            help="With --from-expression, if the files hold levels: name of the unperturbed cells, to be subtracted."
        ),
    ] = None,
    columns: Annotated[list[str] | None, typer.Option("--map", help=_MAP_HELP)] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", help=_LABEL_HELP)] = None,
    data: DataOption = None,
    split: Annotated[str, typer.Option(help=_SPLIT_HELP)] = "official",
    training_seed: Annotated[int, typer.Option(help="Seed of the training run, if the system has several runs.")] = 0,
    allow_unmatched: Annotated[
        bool,
        typer.Option(
            "--allow-unmatched", help="Leave out rows that match no test item. Without it, such rows are an error."
        ),
    ] = False,
) -> None:
    """Turn predictions of another system into a run folder for `report`. See docs/import.md."""
    from benchmarks.evaluation.imported import import_expression, import_run

    mapped = _pairs(columns, "--map")
    if from_expression:
        if labels or allow_unmatched:
            raise typer.BadParameter("--label and --allow-unmatched do not go with --from-expression")
        run = import_expression(
            files, out, name=name, columns=mapped, control=control, data=data, split=split, training_seed=training_seed
        )
        shown = ("tasks", "items", "items_missing", "missing", "unused_perturbations", "smallest_change")
        _show_manifest(run, shown)
        return
    if control is not None:
        raise typer.BadParameter("--control goes with --from-expression")
    run = import_run(
        files, out, name=name, columns=mapped, labels=_pairs(labels, "--label"), data=data, split=split,
        training_seed=training_seed, allow_unmatched=allow_unmatched,
    )  # fmt: skip
    _show_manifest(run, ("tasks", "rows", "items", "items_missing", "statuses", "unmatched", "contradictions"))


@app.command("submit")
def submit_command(
    run: Annotated[Path, typer.Argument(help="Run folder of an evaluation under the challenge's split `official`.")],
    out: Annotated[Path, typer.Option(help="Zip file to write.")],
) -> None:
    """Write the predictions of the BioReasoning Challenge's test pairs as a submission. See docs/bioreasoning.md."""
    from benchmarks.evaluation.submission import write_submission

    done = write_submission(run, out)
    typer.echo(f"{done.path}: {done.rows:,} rows, checked as the challenge reads them")
    if done.unreadable:
        typer.echo(f"rows without a readable answer, in which each label has the same chance: {done.unreadable:,}")


@app.command("publish")
def publish_command(
    run: Annotated[Path, typer.Argument(help="Run folder of SFT or GRPO.")],
    to: Annotated[str, typer.Option(help="hub:ORG/NAME, or a folder to write.")],
    evaluations: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders of its evaluations. Default: those beside the run that belong to it."),
    ] = None,
) -> None:
    """Publish a run's adapter with its cards, scores, data and hashes. See docs/publish.md."""
    from rl.publish.run import publish

    for line in publish(run, to, evaluations or ()).lines():
        typer.echo(line)


@app.command("pull")
def pull_command(
    source: Annotated[str, typer.Argument(help="hub:ORG/NAME, or a folder that `publish` wrote.")],
    to: Annotated[Path, typer.Option(help="New folder to write. One that holds the same is checked.")],
) -> None:
    """Fetch what `publish` made, check the hash of every file, and lay it out as run folders."""
    from rl.publish.run import pull

    for line in pull(source, to).lines():
        typer.echo(line)


@app.command("compare")
def compare_command(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Logs of inspect, lm-eval or verifiers, or tables. NAME=FILE names a system; files of one name are "
            "its training runs. FILE can be a pattern, such as logs/*.eval."
        ),
    ],
    clusters: Annotated[
        list[str] | None,
        typer.Option("--cluster", help="Key within whose values errors are correlated. Can be given twice."),
    ] = None,
    item: Annotated[
        str | None, typer.Option("--id", help="Key of the item. Default: item_id in a table, a log's own ids.")
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="Name of the score. Default: score in a table, a log's only score.")
    ] = None,
    seed: Annotated[str | None, typer.Option(help="Key of the training run, if a file has several.")] = None,
    status: Annotated[
        str | None, typer.Option(help="A table's column that says `incomplete` or `error` where it applies.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="System to subtract from each other one. Default: all pairs.")
    ] = None,
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="Compare each pair on the items that both have.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write, for HTML, Markdown and JSON.")] = None,
) -> None:
    """Compare scores of any task by paired tests with clustered errors. See docs/compare.md."""
    from benchmarks.comparison.command import run_comparison
    from benchmarks.comparison.page import as_json as json_text
    from benchmarks.comparison.page import as_text, write_comparison
    from benchmarks.comparison.read import Keys
    from benchmarks.files import check_folder

    if out is not None:
        check_folder(out)
    keys = Keys(item, score, seed, status, tuple(clusters or ()))
    compared = run_comparison(files, keys, against=against, pairwise=pairwise, command=_command())
    typer.echo(json_text(compared) if as_json else as_text(compared))
    if out is not None:
        typer.echo(f"page: {write_comparison(compared, out)}", err=as_json)


@app.command("study")
def study_command(
    config: Annotated[Path, typer.Argument(help="YAML file. configs/study/ has examples.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the study and print its commands. Runs nothing.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: output_dir of the file.")] = None,
) -> None:
    """Run several conditions with several seeds and report them. Run it again to continue a stopped study."""
    from rl.study import run_study

    page = run_study(config, typer.echo, dry_run=dry_run, out=out)
    if not dry_run:
        typer.echo(f"report: {page}")


@rewards_app.command("check")
def rewards_check(
    config: Annotated[
        str, typer.Argument(help="YAML file with the key `rewards`, name of a built-in reward, or file.py:function.")
    ],
    data: RewardsDataOption = None,
    rows: Annotated[
        int, typer.Option(min=3, help="Rows to score exploits on. Gold answers are scored on all rows.")
    ] = 300,
    every: Annotated[bool, typer.Option("--all", help="Print every exploit, not only those that earn most.")] = False,
) -> None:
    """Check whether a reward can be gamed: fail if an exploit earns more than an honest policy."""
    from rewards import CheckError
    from rl.lab.commands import check_config, describe_check, read_reward_config

    read = read_reward_config(config)
    typer.echo(f"{config}: scoring gold answers on every training row, exploits on {rows} of them", err=True)
    checked = check_config(read, data, rows)
    for line in describe_check(checked, every=every):
        typer.echo(line)
    if failures := checked.check.failures():
        raise CheckError(f"{config}: {'; '.join(failures)}; change the rewards, or gate them with `gate: format`")


@rewards_app.command("replay")
def rewards_replay(
    configs: Annotated[
        list[str], typer.Argument(help="One or two rewards, as for `check`. Two are shown side by side.")
    ],
    rollouts: Annotated[Path, typer.Option(help="Folder of a GRPO run, or Parquet file of rollouts.")],
    out: OutOption = Path("runs/replay"),
    data: RewardsDataOption = None,
) -> None:
    """Apply rewards to stored rollouts and show what they would have paid for."""
    from rl.lab.commands import read_reward_config, replay_configs

    page = replay_configs(
        [read_reward_config(config) for config in configs], rollouts, out, data=data, command=_command()
    )
    typer.echo(f"replay: {page}")


@app.command("demo")
def demo_command(
    out: OutOption = Path("runs/demo"),
    model: Annotated[Path, typer.Option(help="Folder of the small model. It is made if it is not there.")] = Path(
        "models/smollm2-135m-instruct"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the traces and of both stages.")] = 0,
    minutes: Annotated[
        float, typer.Option(help="Most minutes that the demo may take. Its size is chosen to fit.")
    ] = 20,
) -> None:
    """Run both stages with a 135M model on the sample, evaluate and report. A CPU is enough."""
    from rl.demo.run import run_demo

    typer.echo(f"report: {run_demo(out, model, seed, typer.echo, minutes)}")


@app.command("doctor")
def doctor_command(
    engine: Annotated[
        bool, typer.Option(help="Also measure the machine's speed and start vLLM once. Takes about a minute.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Check versions, devices, speed, vLLM, data and model. Says what to do about each gap."""
    import json

    from rl.doctor import diagnose

    found = []
    for finding in diagnose(start_engine=engine):
        found.append(finding)
        if not as_json:
            remedy = "" if finding.ok else f"\n     -> {finding.remedy}"
            typer.echo(f"{'ok ' if finding.ok else 'GAP'}  {finding.name}: {finding.found}{remedy}")
    if as_json:
        facts = {one.name: {"ok": one.ok, "found": one.found, **one.facts} for one in found}
        for gap in (one for one in found if not one.ok):
            facts[gap.name]["remedy"] = gap.remedy
        typer.echo(json.dumps(facts, indent=2))
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def _show_manifest(run: Path, keys: tuple[str, ...]) -> None:
    from benchmarks.runs import is_main_process, read_manifest

    if not is_main_process():
        return
    manifest = read_manifest(run)
    typer.echo(f"{run}: done")
    for key in keys:
        typer.echo(f"  {key}: {manifest.get(key)}")


def _pairs(words: list[str] | None, option: str) -> dict[str, str]:
    from rewards import InputError

    pairs: dict[str, str] = {}
    for word in words or ():
        key, equals, value = word.partition("=")
        if not (key and equals and value) or key in pairs:
            raise InputError(f"{option} {word!r}: give LEFT=RIGHT, each LEFT once")
        pairs[key] = value
    return pairs


def _own_prompts(prompts: str, words: list[str]) -> Any:
    """Return the `PromptConfig` that words give, or None; by default it quotes evidence, as the traces we write do."""
    from benchmarks.config import parse_config
    from benchmarks.evidence.prompts import PromptConfig
    from rewards import InputError

    if prompts not in ("ours", "theirs"):
        raise InputError(f"--prompts {prompts!r}: use ours or theirs")
    if prompts == "theirs":
        if words:
            raise InputError(f"command line: {words[0]}: goes with --prompts ours, or is no option; see --help")
        return None
    return parse_config({"evidence": 5}, words, (PromptConfig,))[0]


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def _command() -> str:
    return shlex.join(["synthpert", *sys.argv[1:]])


def main() -> NoReturn:
    """Run the command: exit code 0 done, 1 a failed check or run, 2 bad usage or input, 130 stopped by Ctrl-C."""
    debug = _prepare()
    try:
        result: Any = app(standalone_mode=False)
        if result == INTERRUPTED:  # typer turns Ctrl-C into this code
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("\nsynthpert: stopped; run the same command again to continue", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        code, line = _explain(error)
        typer.echo(f"synthpert: {line}", err=True)
        sys.exit(code)
    sys.exit(result if isinstance(result, int) else 0)


def _prepare() -> bool:
    """Set the process up, and return whether errors are shown with their traceback."""
    from benchmarks.files import at_home
    from benchmarks.quiet import hide_library_noise

    # Waiting OpenMP threads spin, which starves vLLM on a busy CPU; read once, before torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    debug = "--debug" in sys.argv or bool(os.environ.get("SYNTHPERT_DEBUG"))
    # A shell leaves `~` alone after `--out=`.
    sys.argv = [at_home(word) for word in sys.argv if word != "--debug"]
    if debug:
        os.environ["SYNTHPERT_DEBUG"] = "1"  # for the commands that a demo or a study runs
    else:
        hide_library_noise()
    return debug


def _explain(error: Exception) -> tuple[int, str]:
    """Return the exit code of an error and its one line."""
    from rewards import CheckError, InputError

    if isinstance(error, (InputError, CheckError)):
        return 2 if isinstance(error, InputError) else 1, str(error)
    if hasattr(error, "format_message"):  # click's usage errors
        return 2, f"{error.format_message()} (see synthpert --help)"
    return 1, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:400]} (--debug shows where)"


if __name__ == "__main__":
    main()
