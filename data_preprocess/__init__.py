"""Commands that turn public or generated data into the one row format of ``schema.py``."""
