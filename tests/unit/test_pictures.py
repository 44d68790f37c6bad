"""Pictures whose numbers are computed are those that their scripts draw."""

from __future__ import annotations

import runpy
from pathlib import Path

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def test_the_picture_of_credit_is_what_its_script_draws():
    drawn = runpy.run_path(str(PICTURES / "credit.py"))["picture"]()
    assert (PICTURES / "credit.svg").read_text(encoding="utf-8") == drawn


def test_the_rules_pay_what_the_picture_is_about():
    paid = runpy.run_path(str(PICTURES / "credit.py"))["credit"]()
    assert paid == {"shared": [1, 1, 0], "removal": [1, 0, -1]}
