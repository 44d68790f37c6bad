"""Credit rules: (CreditTable, config, HistoryState) -> CreditResult. `advantage.py` is the entry point."""
