"""What training gave, arm against arm, from the validations that runs leave in their folders. scripts/compare_runs.py is the command.

validations   a run's folder -> its validation, question by question; whole, or refused
arms          runs -> arms, the questions that all have, differences with an interval over questions and one over seeds
picture       arms -> curves of training and validations (PNG)
tables        arms -> Markdown, what it says in words, and the tidy file
"""
