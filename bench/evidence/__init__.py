"""Evidence that the methods work: studies as settings files, tuning on validation rows, tables and pictures.

python -m bench.evidence tune | run STUDY... | report | all
"""
