"""Reproduction of the paper's claims on public data: plans of trainings, evaluation, and the tables of docs/paper."""
