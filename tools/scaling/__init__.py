"""What training and scoring cost against tasks, particles, prompt length, model and rows: measured, fitted, predicted.

python -m tools.scaling measure | page
"""
