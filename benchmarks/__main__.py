"""List the benchmarks: what each measures, and its command."""

import ast
from pathlib import Path

HELPERS = {"solo", "__main__", "evidence", "step_model"}

for path in sorted(Path(__file__).parent.glob("*.py")):
    if path.stem in HELPERS:
        continue
    text = ast.get_docstring(ast.parse(path.read_text()))
    first, _, rest = text.partition("\n\n")
    print(f"{path.stem}: {' '.join(first.split())}\n    {rest.splitlines()[0].strip() if rest else ''}\n")
