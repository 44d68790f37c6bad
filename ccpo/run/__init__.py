"""What a run leaves on disk. Needs no verl: reports and exports read a run without it.

folder.py      the names of everything in a run's folder
lock.py        one job at a time
json_file.py   JSON as it may lie on a disk
run_log.py     one JSON line per step
step_times.py  what a step's time is made of
checkpoint.py  the commit marker of a checkpoint and the state it holds
"""
