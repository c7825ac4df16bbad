"""`python -m reproduce`: train the runs of a plan, compare them on the data to choose on, and, once, test them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .comparison import compare_runs
from .plan import Plan, run_folder
from .scoring import load_source, score_run
from .training import train_plan

MOST = 24  # images of a task on which recipes are chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: default: those of the process.

    Returns:
        The exit code: 1 if there is something left to train.
    """
    parser = argparse.ArgumentParser(prog="python -m reproduce", description=__doc__)
    parser.add_argument(
        "command",
        choices=("train", "validate", "test"),
        help="train; validate: score on the data to choose on, into OUT/PLAN/validation; test: score on the data that"
        " nothing was chosen on, into RESULTS/PLAN",
    )
    parser.add_argument("plan", type=Path, help="a YAML file, such as reproduce/interactive.yaml")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the .npz files (default: data)")
    parser.add_argument(
        "--out", type=Path, default=Path("out/reproduce"), help="folder of runs (default: out/reproduce)"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("reproduce/results"), help="folder of results that are kept"
    )
    parser.add_argument("--runs", nargs="+", help="only these runs")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these seeds of the weights")
    parser.add_argument("--minutes", type=float, default=115, help="training stops after this time (default: 115)")
    args = parser.parse_args(arguments)
    plan = Plan.read(args.plan)
    out, runs, seeds = args.out / plan.name, args.runs or list(plan.runs), args.seeds or plan.seeds
    if unknown := set(runs) - set(plan.runs):
        parser.error(f"--runs {', '.join(sorted(unknown))}: expected some of {', '.join(plan.runs)}")
    if args.command == "train":
        finished = train_plan(plan, out, runs, seeds, args.minutes)
        print("all runs are finished" if finished else "not finished: the same command goes on")
        return 0 if finished else 1
    names, most, prompt_seeds = plan.tested_on, None, 5
    if args.command == "validate":
        names, most, prompt_seeds = plan.chosen_on, MOST, 1
    config = plan.config(runs[0], seeds[0], out)
    sources = {name: load_source(config, name, args.data, plan, most) for name in names}
    for name in runs:
        for seed in seeds:
            if (run_folder(out, name, seed) / "best.pt").exists():
                score_run(plan, out, name, seed, sources, out / args.command, prompt_seeds)
                print(f"{name}, seed {seed}: scored", flush=True)
    results = out / "validation" if args.command == "validate" else args.results / plan.name
    compare_runs(plan, out / args.command, seeds, results)
    print(f"tables: {results}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
