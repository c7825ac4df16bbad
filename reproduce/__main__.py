"""`python -m reproduce`: train the runs of a plan, compare them on the data to choose on, and, once, test them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .plan import Plan
from .training import train_plan

FOLDER = Path(__file__).parent


def main() -> int:
    """Runs a command."""
    parser = argparse.ArgumentParser(prog="python -m reproduce", description=__doc__)
    parser.add_argument("command", choices=("train",))
    parser.add_argument("plan", help="a file reproduce/PLAN.yaml, such as interactive or quick")
    parser.add_argument("--out", type=Path, default=Path("out/reproduce"), help="folder of the runs: OUT/PLAN")
    parser.add_argument("--runs", nargs="+", help="only these runs")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these seeds")
    parser.add_argument("--minutes", type=float, default=115, help="training stops after this time, to go on later")
    args = parser.parse_args()
    plan = Plan.read(FOLDER / f"{args.plan}.yaml")
    out, runs, seeds = args.out / plan.name, args.runs or list(plan.runs), args.seeds or plan.seeds
    if unknown := set(runs) - set(plan.runs):
        parser.error(f"--runs {', '.join(sorted(unknown))}: expected some of {', '.join(plan.runs)}")
    finished = train_plan(plan, out, runs, seeds, args.minutes)
    print("all runs are finished" if finished else "not finished: the same command goes on")
    return 0 if finished else 1


if __name__ == "__main__":
    sys.exit(main())
