"""The operations of the backend ``triton``, one file per family. Importing one imports Triton."""
