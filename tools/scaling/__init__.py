"""Cost of training and scoring by tasks, particles, prompt length, model and rows: measured, fitted, predicted.

python -m tools.scaling measure | page
"""
