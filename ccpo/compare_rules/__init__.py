"""Credit rules compared on the compact trainer: many short runs, paired by seed. scripts/compare_credit.py is the command.

runs      a run for every rule and seed, several at a time, each written when it is over
scores    a run -> numbers
tables    numbers -> means, paired differences, who is best
picture   the curves and the differences
"""
