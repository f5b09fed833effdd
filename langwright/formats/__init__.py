"""Models as folders that other software opens: Hugging Face's layout, in and out."""

from langwright.formats.folder import load_model, save_model
from langwright.formats.hf_config import from_hf_config, to_hf_config

__all__ = ["from_hf_config", "load_model", "save_model", "to_hf_config"]
